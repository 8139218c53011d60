"""The live table: every trial where there is room, else those that matter most and a count."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from distributed_fmlp.records import EpochRecord, TrialRecord
from distributed_fmlp.sweep.live_table import LiveTable

EPOCHS = 5


def trial(seed: int, accuracy: float = 0.8, epochs: int = 0) -> TrialRecord:
    rows = [
        EpochRecord(epoch, 0.5, 0.8, 0.8, 0.4, accuracy, 0.8, 10.0, 5000.0)
        for epoch in range(1, epochs + 1)
    ]
    return TrialRecord(f"lr_0.001_seed_{seed}", 0.001, seed, epochs=rows)


def picture(table: LiveTable, height: int, width: int = 120) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n").split("\n")


def seeds(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.split()[:1] == ["0.001"]]


@pytest.fixture
def twenty() -> LiveTable:
    """Seeds 0 to 6 have ended, of which 3 failed, 4 is best and 6 was stopped; 7 and 8 run."""
    table = LiveTable([trial(seed) for seed in range(20)], EPOCHS, 2)
    for seed in range(9):
        table.started(trial(seed))
    for seed in (0, 1, 2, 4, 5):
        ended = trial(seed, 0.9 if seed == 4 else 0.8 + seed / 100, EPOCHS)
        table.epoch(ended)
        table.ended(replace(ended, status="finished"))
    table.ended(replace(trial(3, epochs=1), status="failed", reason="its process died"))
    table.ended(replace(trial(6, epochs=2), status="stopped", reason="behind"))
    table.epoch(trial(8, epochs=2))
    return table


@pytest.mark.parametrize("width", [80, 120])
def test_every_trial_has_its_row_in_its_own_order_where_there_is_room(
    twenty: LiveTable, width: int
) -> None:
    lines = picture(twenty, 30, width)
    assert seeds(lines) == list(range(20))
    assert not any("waiting" in line for line in lines)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("height", range(8, 30))
def test_a_low_terminal_is_never_too_low_and_shows_first_what_runs_failed_and_is_best(
    twenty: LiveTable, height: int, width: int
) -> None:
    lines = picture(twenty, height, width)
    assert len(lines) <= height
    shown = seeds(lines)
    assert shown, lines
    if len(shown) < 20:
        assert shown == [7, 8, 3, 4, 5, 2, 1, 0, 6, *range(9, 20)][: len(shown)]
    assert any("Ctrl-C stops and keeps everything" in line for line in lines)


def test_one_line_counts_what_is_left_out(twenty: LiveTable) -> None:
    lines = picture(twenty, 12)
    assert seeds(lines) == [7, 8, 3, 4, 5]
    assert "and 3 finished, 1 stopped early, 11 waiting" in [line.strip() for line in lines]
    [counted] = [line.strip() for line in picture(twenty, 8) if line.startswith("and ")]
    assert counted == "and 1 running, 1 failed, 5 finished, 1 stopped early, 11 waiting"


def test_the_last_picture_has_every_trial_whatever_the_height(twenty: LiveTable) -> None:
    twenty.shows_all = True
    assert seeds(picture(twenty, 10)) == list(range(20))


def test_a_trial_that_runs_is_shown_before_its_first_epoch_has_ended(twenty: LiveTable) -> None:
    twenty.started(trial(19))
    assert seeds(picture(twenty, 12))[:3] == [7, 8, 19]
