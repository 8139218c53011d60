"""The servers that are compared: how each is started, asked in its own words, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
OURS = "fmlp"
_START_SECONDS = 180
_STOP_SECONDS = 40
# What would change the threads, the allocator or the settings of one side only.
_UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAY_ADDRESS")
_UNSET_PREFIXES = ("MALLOC_", "RAY_SERVE_", "FMLP_API_TOKEN")

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """One way to ask: `encode` makes the body of images `[N, 784]`, `decode` reads the answer."""

    path: str
    headers: Mapping[str, str]
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Probabilities]


@dataclass(frozen=True)
class Server:
    """One server; `packages` of a rival go into an environment of its own."""

    name: str
    label: str
    command: Callable[[str, int, Path, Path], list[str]]  # Python, port, bundle, scratch directory
    forms: Mapping[str, Form]
    packages: tuple[str, ...] = ()


def _script(name: str) -> Callable[[str, int, Path, Path], list[str]]:
    def command(python: str, port: int, bundle: Path, scratch: Path) -> list[str]:
        return [python, str(HERE / name), str(port), str(scratch)]

    return command


def _service(python: str, port: int, bundle: Path, scratch: Path) -> list[str]:
    return [python, "-m", "distributed_fmlp.serve", str(bundle), "--port", str(port)]


def _with_serve_batch(wait_ms: float) -> Callable[[str, int, Path, Path], list[str]]:
    def command(python: str, port: int, bundle: Path, scratch: Path) -> list[str]:
        script = str(HERE / "serving_serve_batch.py")
        return [python, script, str(wait_ms), str(bundle), "--port", str(port)]

    return command


def _raw(images: Pixels) -> bytes:
    return images.tobytes()


def _floats(body: bytes) -> Probabilities:
    return np.frombuffer(body, "<f4").reshape(-1, 10)


def _json(key: str, single: bool = False) -> Callable[[Pixels], bytes]:
    def encode(images: Pixels) -> bytes:
        value = images[0].tolist() if single else images.tolist()
        return json.dumps({key: value}, separators=(",", ":")).encode()

    return encode


def _predictions(body: bytes) -> Probabilities:
    rows = [each["probabilities"] for each in json.loads(body)["predictions"]]
    values = [list(row.values()) if isinstance(row, dict) else row for row in rows]
    return np.array(values, np.float32)


def _matrix(body: bytes) -> Probabilities:
    return np.array(json.loads(body), np.float32)


def _v2_json(images: Pixels) -> bytes:
    tensor = {
        "name": "images",
        "shape": list(images.shape),
        "datatype": "UINT8",
        "data": images.ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def _from_v2_json(body: bytes) -> Probabilities:
    (output,) = (each for each in json.loads(body)["outputs"] if each["name"] == "probabilities")
    return np.array(output["data"], np.float32).reshape(output["shape"])


def _v2_head(count: int) -> bytes:
    tensor = {
        "name": "images",
        "shape": [count, 784],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": count * 784},
    }
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    return json.dumps({"inputs": [tensor], "outputs": [wanted]}, separators=(",", ":")).encode()


def _v2_binary(images: Pixels) -> bytes:
    return _v2_head(len(images)) + images.tobytes()


def _from_v2_binary(body: bytes) -> Probabilities:
    _, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return _floats(body[end:])


MANY = 256
_OCTETS = {"Content-Type": "application/octet-stream"}
_AS_JSON = {"Content-Type": "application/json"}
_PLAIN = {
    "raw": Form("/raw", _OCTETS, _raw, _predictions),
    "json": Form("/json", _AS_JSON, _json("instances"), _predictions),
    "many": Form("/binary", _OCTETS, _raw, _floats),
}
_OWN = {
    "raw": Form("/predict", _OCTETS, _raw, _predictions),
    "json": Form("/predict", _AS_JSON, _json("instances"), _predictions),
    "many": Form(
        "/v2/models/fmlp/infer",
        {**_OCTETS, "Inference-Header-Content-Length": str(len(_v2_head(MANY)))},
        _v2_binary,
        _from_v2_binary,
    ),
}
SERVERS = {
    server.name: server
    # Those that are compared closest are measured one right after the other.
    for server in (
        Server(
            OURS,
            "this service",
            _service,
            _OWN,
        ),
        Server("serve_batch", "  with @serve.batch, 2 ms", _with_serve_batch(2.0), _OWN),
        Server("serve_batch_0", "  with @serve.batch, no wait", _with_serve_batch(0.0), _OWN),
        Server("fastapi", "FastAPI, uvicorn", _script("serving_fastapi.py"), _PLAIN),
        Server("ray", "Ray Serve, defaults", _script("serving_ray_defaults.py"), _PLAIN),
        Server(
            "mlserver",
            "MLServer",
            _script("serving_mlserver.py"),
            {"json": Form("/v2/models/fmlp/infer", _AS_JSON, _v2_json, _from_v2_json)},
            ("mlserver==1.7.1", "uvloop<0.22"),  # a newer one stops its workers
        ),
        Server(
            "bentoml",
            "BentoML",
            _script("serving_bentoml.py"),
            {"json": Form("/predict", _AS_JSON, _json("images"), _matrix)},
            ("bentoml==1.4.39",),
        ),
        Server(
            "litserve",
            "LitServe",
            _script("serving_litserve.py"),
            {"json": Form("/predict", _AS_JSON, _json("image", single=True), _predictions)},
            ("litserve==0.2.19",),
        ),
    )
}


@dataclass(frozen=True)
class Running:
    """A server that answers: its address, process and seconds from command to first answer."""

    server: Server
    url: str
    pid: int
    start_seconds: float

    def ask(self, form: Form, images: Pixels) -> Probabilities:
        """Probabilities `[N, 10]` of images `[N, 784]`. Raises `OSError` without an answer."""
        request = urllib.request.Request(
            self.url + form.path, data=form.encode(images), headers=dict(form.headers)
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return form.decode(response.read())


@contextlib.contextmanager
def running(server: Server, python: str, bundle: Path, scratch: Path) -> Iterator[Running]:
    """Start a server, wait for its first answer, and stop it and all it started in the end.

    Raises `RuntimeError` with the end of its output when it doesn't come up.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    scratch.mkdir(parents=True)
    log = scratch / "output.log"
    form = server.forms.get("raw") or server.forms["json"]
    with log.open("wb") as file:
        began = time.perf_counter()
        process = subprocess.Popen(
            server.command(python, port, bundle, scratch),
            cwd=scratch,
            env=_environment(bundle, scratch),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(OSError, ValueError, LookupError):
                Running(server, url, process.pid, 0.0).ask(form, np.zeros((1, 784), np.uint8))
                break
            if process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-20:])
                raise RuntimeError(f"{server.label} didn't start:\n{tail}")
            time.sleep(0.05)
        yield Running(server, url, process.pid, time.perf_counter() - began)
    finally:
        _stop(process)


def _environment(bundle: Path, scratch: Path) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _UNSET and not name.startswith(_UNSET_PREFIXES)
    }
    return environment | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(HERE)]),
        "FMLP_BENCHMARK_BUNDLE": str(bundle),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(scratch / "bentoml"),
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SECONDS)
    # Workers of some servers outlive them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def python_of(server: Server, venvs: Path) -> str:
    """The interpreter that runs a server; `FileNotFoundError` where it isn't prepared."""
    if not server.packages:
        return sys.executable
    python = venvs / server.name / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{server.label} isn't installed in {venvs}; run with --prepare")
    return str(python)


def prepare(server: Server, venvs: Path, torch_version: str) -> None:
    """Install a rival with this torch into an environment of its own."""
    directory = venvs / server.name
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    wanted = [*server.packages, f"torch=={torch_version.partition('+')[0]}", "numpy", "safetensors"]
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off"]
    subprocess.run([*pip, "--quiet", *wanted], check=True)
