"""The sweep's command, where it ends before the sweep itself has a say."""

from __future__ import annotations

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
