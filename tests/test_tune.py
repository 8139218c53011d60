"""The sweep's command, where it ends before the sweep itself has a say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distributed_fmlp import tune


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "digits"], "Stopped before the first epoch; nothing is kept\n"),
        (
            ["--resume", "quick"],
            "Stopped before training went on; what was kept is unchanged. To go on, give the same "
            "command again\n",
        ),
    ],
)
def test_ctrl_c_while_the_parts_are_loaded_says_what_is_kept(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(**settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distributed_fmlp.ray_session.configure_environment", interrupted)
    assert tune.main(arguments) == 130
    assert capsys.readouterr().err == said


def test_a_thread_that_a_library_has_left_does_not_keep_the_process() -> None:
    script = (
        "import atexit, threading, time\n"
        "from distributed_fmlp import tune\n"
        "atexit.register(print, 'cleared away')\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "print('said')\n"
        "tune._end(130)\n"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.splitlines() == ["said", "cleared away"]
