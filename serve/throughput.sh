# Source this before Ray is started: . serve/throughput.sh [PORT]
# Turns on Ray Serve's throughput mode for a service at PORT (8000), on loopback but for that port;
# without HAProxy only what Ray's own proxy says is in this service's words.
fmlp_settings=$(python -m distributed_fmlp.serving.throughput "${1:-8000}") &&
    eval "$fmlp_settings" &&
    unset fmlp_settings
