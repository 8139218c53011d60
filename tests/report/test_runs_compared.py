"""Runs set beside each other: what may be compared, what is found, and that runs are only read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import make_info, make_run, make_test

from distributed_fmlp.errors import RunError
from distributed_fmlp.report.__main__ import main
from distributed_fmlp.report.runs_compared import compare_runs, recipes_table, render_comparison
from distributed_fmlp.run_directory import load_predictions, load_run, save_trial


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def improved(path: Path) -> Path:
    """A run whose every trial has 300 more test images right, and better validation."""
    make_run(
        path,
        rates=(0.001,),
        seeds=(0, 1, 2, 3, 4),
        epochs=2,
        options={"epochs": 25, "batch_size": 64, "schedule": "cosine"},
    )
    for trial in load_run(path).trials:
        predictions = load_predictions(path, trial.trial_id)
        assert predictions is not None and trial.best_epoch
        predicted = predictions.predicted.copy()
        predicted[:300] = predictions.label[:300]
        save_trial(
            path,
            replace(
                trial,
                epochs=[replace(row, val_accuracy=row.val_accuracy + 0.05) for row in trial.epochs],
                test_best=make_test(predictions.label, predicted, trial.best_epoch, 0.25),
            ),
            replace(predictions, predicted=predicted),
        )
    return path


def test_a_better_recipe_is_found_over_seeds_and_on_images(tmp_path: Path) -> None:
    plain = load_run(make_run(tmp_path / "plain", rates=(0.001,), seeds=(0, 1, 2, 3, 4), epochs=2))
    better = load_run(improved(tmp_path / "better"))
    compared = compare_runs([plain, better])
    assert compared.best is not None and compared.best.name == "better"
    [pair] = compared.bests
    assert (pair.first, pair.second) == ("plain", "better")
    assert pair.difference_words.startswith("worse by ") and pair.images_words.startswith("worse: ")
    assert "it is better than plain by " in " ".join(compared.answer)
    [same] = compared.by_rate
    assert (same.first, same.second) == ("plain · 0.001", "better · 0.001")
    table = recipes_table(compared)
    assert table is not None and ["schedule", "constant", "cosine"] in [
        list(row) for row in table.rows
    ]


def test_runs_are_only_read_and_the_page_goes_where_it_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_run(tmp_path / "results/one", rates=(0.001,), epochs=2)
    two = make_run(tmp_path / "results/two", rates=(0.001, 0.002), epochs=2)
    before = tree(tmp_path)
    assert main([str(one), "two", "--results", str(tmp_path / "results")]) == 0
    page = tmp_path / "results/comparison.html"
    assert "2 runs compared" in page.read_text("utf-8")
    assert str(page) in capsys.readouterr().out
    assert main([str(one), str(two), "--out", str(tmp_path / "c.html")]) == 0
    assert (tmp_path / "c.html").read_bytes() == page.read_bytes()
    after = tree(tmp_path)
    assert {key: after[key] for key in before} == before and len(after) == len(before) + 2


@pytest.mark.parametrize("kind", ["other data", "twice", "newer", "foreign", "absent"])
def test_what_cannot_be_compared_is_one_line_and_nothing_is_written(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_run(tmp_path / "good", rates=(0.001,), epochs=2)
    other = tmp_path / "other"
    if kind == "other data":
        dataset = {**make_info([])["dataset"], "sha256": "cd" * 32}
        make_run(other, rates=(0.001,), epochs=2, dataset=dataset)
    elif kind == "newer":
        make_run(other, rates=(0.001,), epochs=2, format_version=2)
    elif kind == "foreign":
        other.mkdir()
        (other / "run.json").write_text("{}")
    elif kind == "twice":
        other = good
    (tmp_path / "comparison.html").write_text("the one of yesterday")
    before = tree(tmp_path)
    assert main([str(good), str(other), "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert tree(tmp_path) == before


def test_runs_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / place, rates=(0.001,), epochs=2, name="same"))
        for place in ("a", "b")
    ]
    names = [line.name for line in compare_runs(runs).lines]
    assert names == [f"same ({run.path})" for run in runs]


def test_an_unfinished_run_and_another_split_are_said(tmp_path: Path) -> None:
    one = load_run(make_run(tmp_path / "one", rates=(0.001,), epochs=2))
    split = {"seed": 1, "fraction": 0.2, "sha256": "ee" * 32}
    path = make_run(tmp_path / "two", rates=(0.001,), epochs=2, status="stopped", split=split)
    (path / "trials/lr_0.001_seed_0/trial.json").unlink()
    text = render_comparison(compare_runs([one, load_run(path)]))
    assert "two: Unfinished: this run is stopped before its end; 0 of 1 trials" in text
    assert "different validation images" in text


def test_runs_without_a_finished_trial_give_no_answer(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        path = make_run(tmp_path / name, rates=(0.001,), epochs=2, status="running")
        (path / "trials/lr_0.001_seed_0/trial.json").unlink()
        runs.append(load_run(path))
    compared = compare_runs(runs)
    assert compared.best is None and "no answer yet" in compared.answer[0]
    with pytest.raises(RunError, match="given twice"):
        compare_runs([runs[0], runs[0]])
