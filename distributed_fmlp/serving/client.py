"""What the command line says to a running service, over HTTP."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed_fmlp.errors import ClusterError
from distributed_fmlp.serving.loopback import is_loopback
from distributed_fmlp.serving.settings import read_token

_SECONDS = 120.0  # a promotion loads and checks the model on every replica
_LOST = (502, 504)  # a proxy's own, when what it has asked never answered
_UNKNOWN = (
    "whether the model was changed is not known: ask `python -m distributed_fmlp.serve status`"
)


def run_command(command: str, options: argparse.Namespace) -> int:
    """Carry out `status`, `promote` or `rollback`; the exit status is 1 when the service refuses.

    Raises `UserError` when the bundle isn't there or the service can't be reached.
    """
    if command == "status":
        status, answer = _ask(options, "GET", "/admin/status", None)
    elif command == "rollback":
        status, answer = _ask(options, "POST", "/admin/rollback", {})
    else:
        status, answer = _ask(options, "POST", "/admin/promote", promotion_order(options))
    if status != 200:
        unknown = f"; {_UNKNOWN}" if status in _LOST and command != "status" else ""
        reason = answer.get("error", "no reason given")
        print(f"refused ({status}): {reason}{unknown}", file=sys.stderr)
        return 1
    _show(answer)
    return 0


def promotion_order(options: argparse.Namespace) -> dict[str, Any]:
    """The body of a promotion.

    Names mean something to a service on this machine as they do here; one elsewhere has other
    directories, so it is told what was typed and looks for itself.
    """
    order: dict[str, Any] = {"allowed_accuracy_drop": options.allowed_accuracy_drop / 100}
    if is_loopback(urlsplit(options.url).hostname or ""):
        from distributed_fmlp.serving.bundle_place import find_bundle

        order["bundle"] = find_bundle(options.bundle, Path(options.results))
        if options.data_dir is not None:
            order["data_dir"] = str(Path(options.data_dir).absolute())
    else:
        order["bundle"] = options.bundle
        if options.data_dir is not None:
            order["data_dir"] = options.data_dir
    return order


def _ask(
    options: argparse.Namespace, method: str, path: str, body: Any
) -> tuple[int, dict[str, Any]]:
    """One request; the status and the JSON object that came back.

    Raises `ClusterError` when nothing answers, saying so if the request may have been carried out.
    """
    url = options.url
    request = urllib.request.Request(url + path, method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    token = read_token(options.token_file)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token.decode()}")
    try:
        try:
            with _opener(url).open(request, timeout=_SECONDS) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
    except (OSError, http.client.HTTPException) as error:
        lost = _lost(error)
        if lost is not None:
            what_now = "try again" if method == "GET" else _UNKNOWN
            raise ClusterError(f"{lost} before an answer; {what_now}") from error
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"no service answers at {url} ({reason}); check --url, and that it runs"
        ) from error
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ClusterError(f"what answers at {url} is not this service; check --url")
    return status, parsed


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Past the environment's proxy where the service is on this machine: it would get the token."""
    if is_loopback(urlsplit(url).hostname or ""):
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


def _lost(error: Exception) -> str | None:
    """How the answer to a request that may have arrived was lost; `None` where none was sent."""
    # urllib wraps what happens until the request is written; of that, a connection that is refused
    # or never made is all that proves that nothing has arrived.
    if isinstance(error, TimeoutError):
        return f"{_SECONDS:g} s went by"
    reason = getattr(error, "reason", error)
    if isinstance(reason, (ConnectionError, http.client.IncompleteRead)):
        return None if isinstance(reason, ConnectionRefusedError) else "the connection was lost"
    return None


def _show(answer: dict[str, Any]) -> None:
    model = answer["model"]
    print(
        f"Model {model['version']}: learning rate {model['learning_rate']:g}, "
        f"seed {model['seed']}, epoch {model['epoch']}; "
        f"{100 * model['test_accuracy']:.2f} % test ({model['dataset']})"
    )
    compared = answer.get("accuracy")
    if compared is not None and compared["compared"]:
        print(
            f"Test accuracy compared: {100 * compared['promoted']:.2f} %, and "
            f"{100 * compared['before']:.2f} % before"
        )
    elif compared is not None:
        print(f"Test accuracy NOT compared: {compared['reason']}")
    print(
        f"A rollback brings back {answer['previous'] or 'nothing: no model came before this one'}"
    )
    for replica in answer["replicas"]:
        print(f"Replica {replica['replica']} on {replica['node']} serves {replica['version']}")
