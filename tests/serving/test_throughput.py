"""The settings for a Ray that is started by hand, as a shell gets them from serve/throughput.sh."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distributed_fmlp.serving import haproxy, throughput
from tests.serving.running_service import environment
from tests.serving.shell import source_settings

OWN_WORDS = "distributed_fmlp.serving.proxy_answers.middlewares"


def remove_files_of(settings: dict[str, str]) -> None:
    program = Path(settings["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert program.parent.name.startswith("fmlp-haproxy-")
    shutil.rmtree(program.parent)


@pytest.mark.skipif(not haproxy.available(), reason="there is no HAProxy here")
def test_it_turns_throughput_mode_on_with_files_that_are_there(tmp_path: Path) -> None:
    done, settings = source_settings("", environment(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert settings["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert settings[throughput.PROXY_CALLBACK] == OWN_WORDS
    assert Path(settings["RAY_SERVE_HAPROXY_BINARY_PATH"]).is_file()
    assert "fmlp_settings" not in settings
    remove_files_of(settings)


def test_without_haproxy_only_the_words_of_rays_proxy_are_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(haproxy, "available", lambda: False)
    monkeypatch.delenv(throughput.PROXY_CALLBACK, raising=False)
    assert throughput.main(["8000"]) == 0
    out, err = capsys.readouterr()
    assert out == f"export {throughput.PROXY_CALLBACK}={OWN_WORDS}\n"
    assert "can't be had here" in err


def test_what_the_environment_says_of_the_proxys_words_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(haproxy, "available", lambda: False)
    monkeypatch.setenv(throughput.PROXY_CALLBACK, "distributed_fmlp.serving.shortcut.middlewares")
    assert throughput.main([]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", ["abc", "0", "65536", "-1", "8000.5", "--unknown"])
def test_a_port_that_can_not_be_used_is_one_line_and_sets_nothing(
    tmp_path: Path, word: str
) -> None:
    done, settings = source_settings(word, environment(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not any(name.startswith("RAY_") for name in settings)
