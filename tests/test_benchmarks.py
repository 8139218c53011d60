"""The training benchmark: what it derives from measurements, and that it runs."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from distributed_fmlp.architecture import Architecture

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "benchmarks_training_table", BENCHMARKS / "training_table.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_sweep_epoch_leaves_first_epochs_out_and_shares_trials_out(table: ModuleType) -> None:
    assert table.sweep_epoch([[9.0, 2.0, 4.0], [9.0, 5.0, 5.0]], 2) == table.SweepEpoch(4, 3.5, 4.5)
    assert table.sweep_epoch([[2.0], [3.0]], 1) == table.SweepEpoch(5, 5, 5)


def test_a_ratio_goes_from_its_worst_epochs_to_its_best(table: ModuleType) -> None:
    usual, ours = table.SweepEpoch(60.0, 50.0, 72.0), table.SweepEpoch(15.0, 12.0, 20.0)
    assert usual.times(ours) == (4.0, (2.5, 6.0))
    shown = table.render(
        [
            table.Figure("ratio", 4.0, "x", 4.0, at_least=True, spread=(2.5, 6.0)),
            table.Figure("plain", 1.0, "s"),
        ]
    ).splitlines()
    assert shown[0].split() == ["measured", "min-max", "bar"]
    assert shown[1].split() == ["ratio", "4.00", "x", "2.50-6.00", "x", "≥", "4.00", "x", "met"]
    assert shown[2].split() == ["plain", "1.0", "s"]


def test_four_epochs_are_trained_unless_told_so_that_three_are_measured() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "(default: 4; the first is left out)" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", ["training.py", "serving.py"])
@pytest.mark.parametrize("words", [["--bogus"], ["--out"], ["stray"]], ids=" ".join)
def test_a_bad_option_of_a_benchmark_is_one_line_with_status_2(name: str, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    "words", [["--epochs", "0"], ["--steps", "x"], ["--parts", "all"]], ids=" ".join
)
def test_a_bad_value_is_named(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: argument {words[0]}: ") and done.stderr.count("\n") == 1


def test_the_strict_count_lacks_the_gradients_of_the_input(table: ModuleType) -> None:
    shape = Architecture()
    sizes = (shape.input, *shape.hidden, shape.output)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    nominal, strict = table.step_flop(weights, sizes[0] * sizes[1], 64)
    assert round(nominal / 1e6) == 573
    assert round(strict / 1e6) == 470


def test_a_sweep_may_take_a_tenth_and_25_seconds_more_than_its_training(table: ModuleType) -> None:
    assert table.allowed_seconds(400.0, 2) == pytest.approx(245.0)


def test_a_bar_is_met_at_its_own_value_and_missed_beyond_it(table: ModuleType) -> None:
    for value, met in ((3.9, False), (4.0, True), (4.1, True)):
        assert table.Figure("ratio", value, "x", 4.0, at_least=True).met is met
        assert table.Figure("seconds", 8.0 - value, "s", 4.0).met is met
    assert table.Figure("free", 1.0).met is None


def test_the_table_says_of_every_bar_whether_it_is_met(table: ModuleType) -> None:
    shown = table.render(
        [
            table.Figure("good", 4.5, "x", 4.0, at_least=True),
            table.Figure("bad", 21.0, "s", 20.0),
            table.Figure("plain", 7.0, "ms"),
        ]
    ).splitlines()
    assert shown[1].split() == ["good", "4.50", "x", "≥", "4.00", "x", "met"]
    assert shown[2].split() == ["bad", "21.0", "s", "≤", "20.0", "s", "not", "met"]
    assert shown[3].split() == ["plain", "7.00", "ms"]


def test_a_trial_whose_weights_differ_when_run_again_is_not_counted(table: ModuleType) -> None:
    def sweep(*hashes: str) -> dict[str, object]:
        return {
            "trials": [
                {"trial_id": str(n), "weights_sha256": each, "last_weights_sha256": each}
                for n, each in enumerate(hashes)
            ]
        }

    (figure,) = table.repeat_figures(sweep("a", "b", "c"), sweep("a", "x"))
    assert (figure.value, figure.bar, figure.met) == (1, 2, False)


@pytest.mark.slow
def test_step_script_and_sweep_are_measured_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "training.py"), "--smoke", "--epochs", "3"),
            *("--parts", "step", "script", "sweep", "--out", str(out)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(out.read_text("utf-8"))
    assert measured["dataset"]["name"] == "digits"
    for part in ("script", "sweep"):
        rates = [trial["learning_rate"] for trial in measured["parts"][part]["trials"]]
        assert rates == [0.005, 0.001]
    figures = {figure["what"]: figure for figure in measured["figures"]}
    script, sweep = (
        next(figure["value"] for what, figure in figures.items() if what.startswith(start))
        for start in ("(1) usual script: a sweep epoch", "(3) this sweep: a sweep epoch")
    )
    ratio = figures["(1) ÷ (3), a sweep epoch"]
    assert ratio["value"] == pytest.approx(script / sweep)
    low, high = ratio["spread"]
    assert low <= ratio["value"] <= high
    assert ratio["met"] is (ratio["value"] >= 4.0)
    assert measured["parts"]["step"]["step"]["count"] >= 40
    assert measured["parts"]["sweep"]["first_step"] > 0
    assert "(1) ÷ (3), a sweep epoch" in done.stdout
