# What every shell on a node has, and so all that Ray starts there; `ray up` puts it into ~/.bashrc.
export PATH="$HOME/distributed_fmlp/.venv/bin:$PATH"
export RAY_AUTH_MODE=token        # the token itself is in ~/.ray/auth_token, for its owner alone
export RAY_USAGE_STATS_ENABLED=0
