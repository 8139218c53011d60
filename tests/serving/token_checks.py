"""That a running service asks for its token wherever it should, and tells it nowhere."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.serving.running_service import Service, assert_error

TOKEN = "correct-horse-battery-staple-0123"
_OPEN = ("/v2/health/live", "/v2/health/ready", "/v2/models/fmlp/ready")
_CLOSED = ("/v2", "/v2/models/fmlp", "/model", "/metrics", "/openapi.json", "/admin/status",
           "/", "/docs", "/static/page.css")  # fmt: skip


def check_token(service: Service, *giving_it: str) -> None:
    """`giving_it` are words for the command line; without them the environment has the token."""
    environment = {key: value for key, value in service.env.items() if key != "FMLP_API_TOKEN"}
    stranger = replace(service, token=None, env=environment)
    for path in _OPEN:
        assert stranger.ask("GET", path).status == 200
    for path in _CLOSED:
        reply = stranger.ask("GET", path)
        assert_error(reply, 401)
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    for token in ("x", TOKEN[:-1], TOKEN + "x", ""):
        assert stranger.ask("GET", "/v2", Authorization=f"Bearer {token}").status == 401
    with stranger.connect() as connection:
        assert connection.predict(np.zeros((1, 784), np.uint8)).status == 401
    assert stranger.cli("status").returncode == 1
    friend = replace(service, token=TOKEN)
    said = friend.cli("status", *giving_it)
    assert said.returncode == 0, said.stderr
    for path in _CLOSED:
        assert friend.ask("GET", path).status == 200
    requests = [line for line in service.command.lines if "curl" in line or " -c " in line]
    assert len(requests) == 3
    for request in requests:
        done = subprocess.run(
            ["bash", "-c", request], env=service.env, capture_output=True, text=True, timeout=60
        )
        assert "predictions" in done.stdout, done


def check_token_is_told_nowhere(service: Service) -> Path:
    """Neither in a command, nor in the service's files or output; returns its own directory."""
    for process in service.command.family():
        assert TOKEN not in " ".join(process.cmdline())
    logs = next(line for line in service.command.lines if "Ray's logs" in line).split()[2]
    directory = Path(logs).parents[1]
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in service.command.said
    return directory
