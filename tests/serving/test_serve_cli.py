"""The service's command line: what can't be used is one line, exit status 2, and nothing left."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distributed_fmlp import serve
from distributed_fmlp.serving import client
from distributed_fmlp.serving.loopback import is_loopback
from tests.serving.conftest import Bundles
from tests.serving.running_service import Command, environment, free_port, gone
from tests.synthetic_run import make_run

TOKEN = "correct-horse-battery-staple"


class Desk:
    """A working directory, HOME and TMPDIR of a command's own."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self.path = path
        self.cwd = path / "work"
        self.cwd.mkdir()
        self.temporary = temporary

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        env = environment(self.path / "home", TMPDIR=str(self.temporary), **environ)
        return subprocess.run(
            [sys.executable, "-m", "distributed_fmlp.serve", *words],
            cwd=self.cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def refused(self, *words: str, **environ: str) -> str:
        """The one line of an unusable command, which leaves nothing behind."""
        done = self.run(*words, **environ)
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done
        assert lines[0].startswith("error: ")
        assert list(self.temporary.iterdir()) == []
        assert not (self.path / "home").exists()
        assert TOKEN not in lines[0]
        return lines[0]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    # Short: from a long TMPDIR the service goes elsewhere with its files.
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as temporary:
        yield Desk(tmp_path, Path(temporary))


def test_a_port_in_use_is_named_and_another_is_asked_for(desk: Desk, bundles: Bundles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = desk.refused(str(bundles.first), "--port", str(port))
    assert f"127.0.0.1:{port}" in said and "another --port" in said


def test_an_address_that_is_none_of_this_machines_is_refused(desk: Desk, bundles: Bundles) -> None:
    words = (str(bundles.first), "--host", "192.0.2.1", "--insecure", "--port", str(free_port()))
    assert "can't listen on 192.0.2.1" in desk.refused(*words)


def test_a_name_that_leads_nowhere_is_refused(desk: Desk, bundles: Bundles) -> None:
    words = (str(bundles.first), "--host", "no-such-host.invalid", "--insecure")
    said = desk.refused(*words)
    assert "can't listen on no-such-host.invalid" in said and "Unknown error" not in said


@pytest.mark.parametrize("seconds", [0.8, 1.6, 2.5, 4.5, 6.0])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_it_serves_it_leaves_nothing(
    desk: Desk, bundles: Bundles, kind: int, seconds: float
) -> None:
    """While it imports from two threads, while Ray starts, while Serve does."""
    env = environment(desk.path / "home", TMPDIR=str(desk.temporary))
    words = [sys.executable, "-m", "distributed_fmlp.serve", str(bundles.first)]
    command = Command([*words, "--port", str(free_port())], desk.cwd, env)
    try:
        time.sleep(seconds)
        family = command.family()
        # A terminal sends Ctrl-C to all that runs in it; whoever ends a service, to its process.
        send = os.killpg if kind == signal.SIGINT else os.kill
        send(command.process.pid, kind)
        status = command.finish(60)
        assert gone(family) == []
    finally:
        command.destroy()
    # Whatever it was doing: too early for its own handler, starting, or just done with that.
    assert status in (-kind, 130, 0), command.said
    assert "Traceback" not in command.said or status == -kind, command.said
    assert list(desk.temporary.iterdir()) == []


def test_without_any_run_there_is_nothing_to_serve(desk: Desk) -> None:
    assert "nothing to serve" in desk.refused("--port", str(free_port()))


def test_an_unknown_name_and_a_run_without_a_bundle_are_refused(desk: Desk) -> None:
    port = str(free_port())
    assert "neither a bundle nor a run" in desk.refused("unknown", "--port", port)
    assert "File name too long" in desk.refused("n" * 300, "--port", port)
    make_run(desk.cwd / "results" / "unfinished", rates=(0.001,), epochs=2, images=20)
    assert "has no bundle yet" in desk.refused("unfinished", "--port", port)


def flip_a_byte(bundle: Path) -> None:
    file = bundle / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def cut_the_manifest(bundle: Path) -> None:
    file = bundle / "manifest.json"
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [flip_a_byte, cut_the_manifest])
def test_a_damaged_bundle_is_refused(
    desk: Desk, bundles: Bundles, damage: Callable[[Path], None]
) -> None:
    copy = desk.path / "copy"
    shutil.copytree(bundles.first, copy)
    damage(copy)
    said = desk.refused(str(copy), "--port", str(free_port()))
    assert "damaged" in said or "not JSON" in said or "SHA-256" in said


def test_beyond_loopback_a_token_or_a_clear_word_is_needed(desk: Desk, bundles: Bundles) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        assert "--insecure" in desk.refused(str(bundles.first), "--host", host)


def test_loopback_in_all_its_forms_needs_no_token() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example.org"):
        assert not is_loopback(host)


@pytest.mark.parametrize("token", ["short", "with a space and long enough", "ünsäglich-" * 3])
def test_a_token_that_can_not_be_used_is_refused_and_never_shown(
    desk: Desk, bundles: Bundles, token: str
) -> None:
    said = desk.refused(str(bundles.first), FMLP_API_TOKEN=token)
    assert "token is not usable" in said and token not in said


def test_a_token_file_that_can_not_be_read_is_refused(desk: Desk, bundles: Bundles) -> None:
    binary = desk.path / "binary"
    binary.write_bytes(b"\xff\xfe" * 20)
    empty = desk.path / "empty"
    empty.write_text("")
    for file in (desk.path / "missing", desk.path, binary, "~nobody-of-this-name/token", ""):
        assert "can't be read" in desk.refused(str(bundles.first), "--token-file", str(file))
    # An empty file is no reason to serve without a token.
    assert "not usable" in desk.refused(str(bundles.first), "--token-file", str(empty))


@pytest.mark.parametrize(
    "words",
    [
        ("--port", "0"),
        ("--port", "65536"),
        ("--port", "http"),
        ("--port", "²"),
        ("--host", ""),
        ("--host", "a\nb"),
        ("--host", "http://here"),
        ("--replicas", "0"),
        ("--replicas", "9" * 5000),
        ("--max-batch-size", "16385"),
        ("--max-queued", "1000001"),
        ("--max-body-mib", "257"),
        ("--max-batch-size", "-1"),
        ("--max-queued", "many"),
        ("--max-body-mib", "0.5"),
        ("--batch-wait-ms", "-1"),
        ("--batch-wait-ms", "nan"),
        ("--batch-wait-ms", "inf"),
        ("--token", TOKEN),
        ("--unknown",),
        ("one", "two"),
        ("promote",),
        ("promote", "x", "--allowed-accuracy-drop", "-1"),
        ("promote", "x", "--allowed-accuracy-drop", "nan"),
        ("status", "--port", "1"),
        ("status", "--url", "http://"),
        ("status", "--url", "http://[::1"),
        ("status", "--url", "http://127.0.0.1:65536"),
        ("status", "--url", "http://127.0.0.1:8000/ä"),
        ("status", "--url", "http://a b"),
    ],
)
def test_an_unusable_command_line_is_one_line_and_exit_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_a_host_may_be_in_brackets_as_in_a_url() -> None:
    assert serve.build_parser().parse_args(["--host", "[::1]"]).host == "::1"


def test_help_answers_at_once_and_without_ray_or_torch() -> None:
    code = (
        "import sys; from distributed_fmlp import serve\n"
        "for words in (['--help'], ['promote', '--help']):\n"
        "    try: serve.main(words)\n"
        "    except SystemExit as done: assert not done.code\n"
        "sys.exit(', '.join({'ray', 'torch', 'numpy', 'pydantic'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# --- to a running service that isn't one


@pytest.mark.parametrize("command", ["status", "rollback", "promote"])
def test_nothing_that_listens_is_one_line(
    command: str, bundles: Bundles, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, *([str(bundles.first)] if command == "promote" else [])]
    assert serve.main([*words, "--url", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "no service answers at" in capsys.readouterr().err


@pytest.fixture
def another_server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_server_is_told_from_the_service(
    another_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["status", "--url", another_server]) == 2
    assert "is not this service" in capsys.readouterr().err
    assert serve.main(["status", "--url", "file:///etc/passwd"]) == 2
    assert "is no address" in capsys.readouterr().err


def test_a_service_on_this_machine_is_asked_past_any_proxy(
    another_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would be shown the token, and knows nothing of this machine's loopback."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert serve.main(["status", "--url", another_server]) == 2
    assert "is not this service" in capsys.readouterr().err


def close_at_once(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def stop_in_the_middle(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"model": ')
    handler.close_connection = True


def say_that_it_was_lost(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = b'{"error": "the replica was lost while it answered; try again"}'
    handler.send_response(502)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("answer", [close_at_once, stop_in_the_middle, say_that_it_was_lost])
@pytest.mark.parametrize("command", ["promote", "rollback", "status"])
def test_an_answer_that_is_lost_says_that_the_model_may_have_been_changed(
    command: str,
    answer: Callable[[http.server.BaseHTTPRequestHandler], None],
    bundles: Bundles,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [command, *([str(bundles.first)] if command == "promote" else [])]
    with losing_server(answer) as url:
        status = serve.main([*words, "--url", url])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "lost" in said and "no service answers" not in said
    assert status == (1 if answer is say_that_it_was_lost else 2)
    unknown = "whether the model was changed is not known" in said
    assert unknown == (command != "status")


def test_an_answer_that_does_not_come_in_time_says_that_the_model_may_have_been_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SECONDS", 0.3)
    with losing_server(lambda handler: time.sleep(1)) as url:
        assert serve.main(["rollback", "--url", url]) == 2
    said = capsys.readouterr().err
    assert "0.3 s went by before an answer" in said
    assert "whether the model was changed is not known" in said


@contextmanager
def losing_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """It takes a request to its end before `answer`."""

    class Losing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer(self)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Losing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_names_are_made_absolute_only_for_a_service_on_this_machine(
    desk: Desk, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundles.first.parent)

    def order(*words: str) -> dict[str, object]:
        options = serve.build_client_parser("promote").parse_args(["first", *words])
        return client.promotion_order(options)

    here = {"bundle": str(bundles.first), "data_dir": str(bundles.first.parent / "data")}
    for url in ("http://127.0.0.1:8000", "http://localhost:8000/", "http://[::1]:8000"):
        told = order("--data-dir", "data", "--url", url)
        assert told == {**here, "allowed_accuracy_drop": 0}
    for url in ("http://192.0.2.7:8000", "https://service.example"):
        told = order("--data-dir", "data", "--url", url)
        assert told == {"bundle": "first", "data_dir": "data", "allowed_accuracy_drop": 0}
        assert "data_dir" not in order("--url", url)


def test_a_bundle_that_is_not_there_is_refused_before_anything_is_asked(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["promote", str(desk.path / "missing"), "--url", "http://127.0.0.1:1"]) == 2
    assert "neither a bundle nor a run" in capsys.readouterr().err
    assert os.listdir(desk.cwd) == []
