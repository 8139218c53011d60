# What every shell on a node has, and so all that Ray starts there; `ray up` puts it into ~/.bashrc.
export PATH="$HOME/fmlp/.venv/bin:$PATH"
export RAY_AUTH_MODE=token        # the token itself is in ~/.ray/auth_token, for its owner alone
export RAY_USAGE_STATS_ENABLED=0
# What Ray's own proxy says by itself is JSON, as all else that the service says.
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=distributed_fmlp.serving.proxy_answers.middlewares
