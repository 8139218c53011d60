"""docs/scaling.md: its sentences and its columns agree with each other and with the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import distributed_fmlp
from distributed_fmlp.architecture import Architecture
from distributed_fmlp.model import build_model

PAGE = (Path(distributed_fmlp.__file__).parents[1] / "docs" / "scaling.md").read_text()
_ROW = re.compile(
    r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \| (\d+) % \| ([\d.]+) \| (\d*) ?\|$", re.M
)


@dataclass(frozen=True)
class Row:
    hosts: int
    trials: int
    epochs: int
    wall: float
    training: float
    share: float
    beside: float
    memory: float | None

    @property
    def recorded(self) -> float:
        """The run's own time, which the table has only in what a trial costs beside training."""
        return (self.beside * self.trials + self.training) / self.hosts


ROWS = [Row(*map(int, row[:3]), *map(float, row[3:7]), float(row[7]) if row[7] else None)
        for row in _ROW.findall(PAGE)]  # fmt: skip


def said(pattern: str) -> list[float]:
    """The numbers in the one place where the page says so."""
    (found,) = re.finditer(pattern, PAGE)
    return [float(number) for number in found.groups()]


def test_every_row_is_read() -> None:
    table = PAGE.split("## Measured")[1].split("##")[0]
    assert len(ROWS) == sum(line.startswith("| ") for line in table.splitlines()) - 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.hosts}-{row.trials}-{row.epochs}")
def test_the_share_that_isnt_training_is_that_of_the_other_columns(row: Row) -> None:
    share = 100 * (1 - row.training / (row.recorded * row.hosts))
    assert abs(share - row.share) <= 0.5 + 100 * 0.05 / (row.recorded * row.hosts)
    assert row.recorded < row.wall


def test_the_sentence_on_an_epoch_is_of_the_table() -> None:
    low, high = said(r"an epoch of which takes (\d+) to (\d+) ms")
    for row in ROWS:
        # The column has one decimal.
        assert low <= 1000 * (row.training + 0.05) / (row.trials * row.epochs)
        assert 1000 * (row.training - 0.05) / (row.trials * row.epochs) <= high


def test_the_sentences_on_the_command_and_its_driver_are_of_the_table() -> None:
    few, many = said(r"(\d+) s less for 4 trials, (\d+) s less for 256")
    rows = {(row.trials, row.epochs): row for row in ROWS if row.memory is not None}
    for trials, less in ((4, few), (256, many)):
        row = rows[trials, 1]
        # Each figure is rounded: a wall second, a twentieth of a second a trial.
        assert abs(row.wall - row.recorded - less) <= 1 + 0.05 * trials / row.hosts
    each, grown = said(r"grows by ([\d.]+) MiB a trial: (\d+) MiB from 4 to 256")
    growth = (rows[256, 1].memory or 0) - (rows[4, 1].memory or 0)
    assert growth == grown
    assert each == round(grown / (256 - 4), 1)


def test_a_checkpoint_has_the_bytes_that_the_page_counts_with() -> None:
    n_parameters = sum(each.numel() for each in build_model(Architecture(), 0).parameters())
    assert said(r"network has ([\d.]+) million parameters") == [round(n_parameters / 1e6, 2)]
    # Weights and two moments, and the best weights where they are others; four bytes each.
    sizes = said(r"so far: (\d+) MB while the latest epoch is the best one, (\d+) MB otherwise")
    assert sizes == [round(copies * 4 * n_parameters / 1e6) for copies in (3, 4)]


def test_the_sums_for_a_thousand_trials_are_right() -> None:
    (hours,) = said(r"Training is 1,000 x 25 x 9 s = ([\d.]+) hours")
    assert hours == 1000 * 25 * 9 / 3600
    minutes, seconds = said(r"so three: (\d+) minutes (\d+) s")
    assert 60 * minutes + seconds == 3 * 25 * 9
    (reports,) = said(r"400 reports come in 9 s, (\d+) a second")
    assert reports == round(400 / 9)
    n_each, gigabytes, requests = said(
        r"(\d+) checkpoints of 24 MB a second are ([\d.]+) GB/s, and (\d+) requests"
    )
    (a_checkpoint,) = said(r"\| requests to S3 by the trial \| (\d+) ")
    assert (n_each, gigabytes) == (reports, round(400 / 9 * 24 / 1000, 2))
    assert requests == 400 / 9 * a_checkpoint
    checkpoints, a_second, megabytes = said(
        r"make (\d+) checkpoints and (\d+) requests a second, (\d+) MB/s"
    )
    assert checkpoints == round(400 / 30)
    assert (a_second, megabytes) == (400 / 30 * a_checkpoint, 400 / 30 * 24)
    read, took = said(
        r"before the older ones are deleted: (\d+) GB for 1,000\s+trials, about (\d+)"
    )
    assert read == 2 * 24
    assert took == read * 1000 / 100 / 60
