"""The report: its tables say what was recorded, its plots are there, its command answers."""

from __future__ import annotations

import csv
import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import FASHION, make_info, make_run

from distributed_fmlp.errors import RunError
from distributed_fmlp.report import build_report, render_summary
from distributed_fmlp.report.__main__ import find_run, main
from distributed_fmlp.report.plots import draw_plots
from distributed_fmlp.report.published import published_results, why_not_beside
from distributed_fmlp.report.quantities import QUANTITIES, architecture_name, plot_name
from distributed_fmlp.report.statistics import wilson_interval
from distributed_fmlp.report.summary import chosen_because, summarize
from distributed_fmlp.report.summary_files import rates_table, summary_markdown
from distributed_fmlp.run_directory import choose, load_run, save_trial, write_json

DIGITS = {
    **make_info([])["dataset"],
    "name": "digits",
    "substituted": True,
    "class_names": list("0123456789"),
}
PNG = b"\x89PNG\r\n\x1a\n"


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# Tables


def test_each_row_has_the_recorded_figures_of_the_chosen_and_of_the_last_epoch(
    tmp_path: Path,
) -> None:
    run = load_run(make_run(tmp_path / "run", seeds=(0, 1)))
    summary = build_report(run)
    assert [row.trial_id for row in summary.rows] == [trial.trial_id for trial in run.trials]
    for row, trial in zip(summary.rows, run.trials, strict=True):
        assert trial.test_best and trial.test_last and trial.best_epoch
        best, last = trial.epochs[trial.best_epoch - 1], trial.epochs[-1]
        assert row.chosen_epoch == best.epoch and row.last_epoch == 25
        assert row.val_accuracy_percent == pytest.approx(100 * best.val_accuracy)
        assert row.test_accuracy_percent == pytest.approx(100 * trial.test_best.accuracy)
        assert (row.test_loss, row.test_f1) == (trial.test_best.loss, trial.test_best.f1)
        assert row.last_test_accuracy_percent == pytest.approx(100 * trial.test_last.accuracy)
        assert (row.last_test_loss, row.last_test_f1) == (trial.test_last.loss, trial.test_last.f1)
        assert row.last_train_loss == last.train_loss
        assert row.last_train_accuracy_percent == pytest.approx(100 * last.train_accuracy)


def test_the_published_figures_stand_beside_their_own_learning_rate(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.0009, 0.001, 0.002)))
    first, second, third = summarize(run).rows
    assert (first.published_train_loss, first.published_train_accuracy_percent) == (0.1834, 93.25)
    assert (first.published_test_loss, first.published_test_f1) == (0.2898, 0.8989)
    assert second.published_test_accuracy_percent == 90.47
    assert third.published_test_accuracy_percent is None
    text = render_summary(summarize(run))
    assert "published test" in text and "90.47" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": DIGITS}, "digits"),
        ({"dataset": {**DIGITS, "substituted": False}}, "digits"),
        ({"dataset": {**DIGITS, "name": "fashion-mnist"}}, "fashion-mnist"),
        ({"options": {"epochs": 5, "batch_size": 64}}, "5 epochs for 25"),
        ({"options": {"epochs": 25, "batch_size": 128}}, "128 images a batch for 64"),
        (
            {"options": {"epochs": 25, "batch_size": 64, "schedule": "cosine"}},
            "a cosine learning-rate schedule",
        ),
        (
            {"architecture": {"input": 784, "hidden": [64], "output": 10, "dropout": [0.3]}},
            "hidden sizes 64 for 1024, 512, 256, 128",
        ),
        (
            {
                "architecture": {
                    **make_info([])["architecture"],
                    "dropout": [0.3, 0.3, 0.3, 0.1],
                }
            },
            "dropout 0.1, 0.3 for 0.3",
        ),
        (
            {
                "options": {
                    "epochs": 25,
                    "batch_size": 64,
                    "schedule": "cosine",
                    "label_smoothing": 0.1,
                    "weight_decay": 0.0,
                }
            },
            "a cosine learning-rate schedule for a constant rate; label smoothing 0.1 for none",
        ),
    ],
)
def test_published_figures_are_not_set_beside_another_recipe_or_other_data(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    summary = summarize(load_run(make_run(tmp_path / "run", epochs=5, **changes)))
    assert all(row.published_test_accuracy_percent is None for row in summary.rows)
    for text in (render_summary(summary), summary_markdown(summary)):
        assert "published test" not in text
        # Other data has nothing to do with the published; another recipe is said to be one.
        same_data = summary.dataset == "fashion-mnist" and summary.banner is None
        assert ("90.47" in text) == ("of another recipe" in text) == same_data
        assert "The published figures are not set beside these" in text
    assert summary.not_beside is not None and said in summary.not_beside


def test_the_packages_published_results_are_complete() -> None:
    results = published_results()
    assert [run["learning_rate"] for run in results["runs"]] == [0.005, 0.001, 0.0009, 0.0006]
    assert {run["epochs"][-1][0] for run in results["runs"]} == {25}


def test_csv_and_json_hold_the_same_figures(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    build_report(run)
    value = json.loads((run.path / "summary.json").read_text())
    with (run.path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(value["rows"]) == 4
    for row, wanted in zip(rows, value["rows"], strict=True):
        for key, cell in wanted.items():
            assert row[key] == ("" if cell is None else str(cell))
        assert (row["dataset"], row["dataset_substituted"]) == ("fashion-mnist", "False")
    assert [row["trial_id"] for row in rows if row["chosen"] == "True"] == [value["chosen_trial"]]


def test_the_markdown_tables_have_as_many_cells_in_every_row(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", name="a | b <script> *c*"))
    text = summary_markdown(summarize(run))
    assert "<script>" not in text.replace("\\<script", "")
    blocks = [b for b in text.split("\n\n") if b.startswith("| ")]
    assert [block.strip().count("\n") - 1 for block in blocks] == [3 * 4, 4, 4, 6]
    for block in blocks:
        lines = block.strip().split("\n")
        assert len({line.count("|") - line.count("\\|") for line in lines}) == 1


def test_the_summary_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    text = render_summary(summarize(load_run(make_run(tmp_path / "run"))))
    tables = text.split("\n\n")[1:3]
    assert max(len(line) for table in tables for line in table.split("\n")) <= 80
    assert text.isascii()


def test_several_seeds_have_mean_deviation_and_interval_in_every_table(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", seeds=(0, 1, 2, 3, 4), epochs=3))
    summary = build_report(run)
    tested = [
        100 * trial.test_best.accuracy
        for trial in run.trials
        if trial.learning_rate == 0.001 and trial.test_best
    ]
    mean, deviation = statistics.mean(tested), statistics.stdev(tested)
    half = 2.776445 * deviation / 5**0.5  # Student's t, 4 degrees of freedom
    wanted = [f"{value:.2f}" for value in (mean, deviation, mean - half, mean + half)]
    table = rates_table(summary)
    assert [row[2] for row in table.rows] == ["mean of 5", "SD", "low", "high"] * 4
    column = [(c.group, c.name) for c in table.columns].index(("test", "acc %"))
    assert [row[column] for row in table.rows[4:8]] == wanted
    for text in (render_summary(summary), (run.path / "summary.md").read_text("utf-8")):
        assert all(figure in text for figure in wanted)
    tables = render_summary(summary).split("\n\n")[1:4]
    assert max(len(line) for table in tables for line in table.split("\n")) <= 80
    value = json.loads((run.path / "summary.json").read_text("utf-8"))
    estimate = value["rates"][1]["figures"]["test_accuracy_percent"]
    assert (estimate["n"], estimate["mean"]) == (5, pytest.approx(mean))
    assert estimate["interval"]["low"] == pytest.approx(mean - half, abs=1e-4)
    assert len(value["pairs"]) == 6 and value["answer"] == list(summary.answer)


def test_a_single_seed_has_wilsons_interval_in_the_tables(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001,), epochs=3))
    [trial] = run.trials
    assert trial.test_best is not None
    interval = wilson_interval(round(1000 * trial.test_best.accuracy), 1000)
    text = summary_markdown(summarize(run))
    assert f"{100 * interval.low:.2f}" in text and f"{100 * interval.high:.2f}" in text


def test_the_choice_is_explained_by_what_decided_it(tmp_path: Path) -> None:
    trials = load_run(make_run(tmp_path / "run", rates=(0.1, 0.2), epochs=2)).trials
    first, second = trials
    assert "is the highest of 2 finished trials" in chosen_because(trials)
    same = replace(second, epochs=first.epochs)
    assert "it comes first" in chosen_because([first, same])
    slower = replace(first, epochs=[*first.epochs[:-1], *first.epochs[-1:]])
    higher = [replace(row, val_loss=row.val_loss + 0.1) for row in first.epochs]
    assert "its validation loss is the lower" in chosen_because(
        [replace(second, epochs=higher), slower]
    )
    late = [replace(row, val_accuracy=0.5, val_loss=1.0) for row in first.epochs]
    late[1] = replace(late[1], val_accuracy=0.9, val_loss=0.3)
    early = [replace(late[1], epoch=1), replace(late[0], epoch=2)]
    assert "its epoch is the earlier" in chosen_because(
        [replace(first, epochs=late), replace(second, epochs=early)]
    )
    assert "only finished trial" in chosen_because([first])
    assert "none has finished" in chosen_because([replace(first, status="running")])


def test_an_unfinished_run_is_reported_and_said_to_be_unfinished(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="running", finished=None)
    (path / "trials/lr_0.005_seed_0/trial.json").unlink()
    run = load_run(path)
    cut = replace(
        run.trials[1],
        status="running",
        epochs=run.trials[1].epochs[:1],
        test_best=None,
        test_last=None,
    )
    save_trial(path, cut)
    summary = build_report(load_run(path))
    assert "Unfinished" in render_summary(summary) and "2 of 4 trials" in render_summary(summary)
    plots = {item.name for item in (path / "plots").iterdir()}
    assert not any("lr_0.005" in name for name in plots)
    assert "loss_Arch2_lr_0.001.png" in plots
    assert "confusion_matrix_Arch2_lr_0.001.png" not in plots
    assert "confusion_matrix_Arch2_lr_0.0006.png" in plots


def test_a_run_that_has_only_just_begun_is_reported(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="running")
    for item in (path / "trials").rglob("trial.json"):
        item.unlink()
    summary = build_report(load_run(path))
    assert summary.chosen_trial is None
    assert "0 of 4 trials" in render_summary(summary)


def test_a_trial_that_failed_for_good_is_named_with_its_reason(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="failed")
    run = load_run(path)
    failed = replace(run.trials[0], status="failed", reason="the loss\nbecame NaN", test_best=None)
    save_trial(path, failed)
    summary = build_report(load_run(path))
    assert "lr_0.005_seed_0 failed: the loss became NaN" in render_summary(summary)
    assert "lr\\_0.005\\_seed\\_0 failed" in (path / "summary.md").read_text()
    assert summary.chosen_trial is not None and summary.state is None


def test_substituted_data_is_said_on_every_table(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001,), epochs=2, dataset=DIGITS))
    summary = build_report(run)
    lines = render_summary(summary).split("\n")
    assert lines[0].startswith("NOT FASHION-MNIST: digits") and lines[-1] == lines[0]
    for section in (run.path / "summary.md").read_text().split("\n## ")[1:]:
        assert "**NOT FASHION-MNIST: digits" in section
    with (run.path / "summary.csv").open(newline="") as file:
        assert {row["dataset_substituted"] for row in csv.DictReader(file)} == {"True"}
    assert "digits" in json.loads((run.path / "summary.json").read_text())["banner"]


# Plots


def test_every_learning_rate_gets_the_four_published_plots(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", seeds=(0, 1)))
    build_report(run)
    patterns = published_results()["plots_per_learning_rate"]
    rates = ("0.005", "0.001", "0.0009", "0.0006")
    wanted = {pattern.format(lr=rate) for pattern in patterns for rate in rates}
    wanted.add("test_accuracy_Arch2.png")
    plots = {item.name: item.read_bytes() for item in (run.path / "plots").iterdir()}
    assert set(plots) == wanted
    assert all(data.startswith(PNG) and data.endswith(b"IEND\xaeB`\x82") for data in plots.values())


def test_processes_draw_the_same_plots(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001, 0.002), epochs=3))
    assert list(draw_plots(run, [], processes=2)) == list(draw_plots(run, []))


def test_plot_names_follow_the_architecture_and_the_shortest_learning_rate() -> None:
    assert architecture_name([1024, 512, 256, 128]) == "Arch2"
    assert plot_name("loss", [64, 32], 1e-05) == "loss_Arch_64x32_lr_1e-05.png"


def titles(run: Any) -> list[str]:
    from distributed_fmlp.report import confusion_plot, curve_plots

    figures = [curve_plots.curves(run, run.trials, quantity, None) for quantity in QUANTITIES]
    figures.append(confusion_plot.confusion_matrix(run, run.trials))
    return [figure.texts[0].get_text() for figure in figures]


def test_substituted_data_is_said_in_every_plots_title(tmp_path: Path) -> None:
    substituted = load_run(make_run(tmp_path / "a", rates=(0.001,), epochs=2, dataset=DIGITS))
    real = load_run(make_run(tmp_path / "b", rates=(0.001,), epochs=2))
    assert all(
        title.startswith("digits IN PLACE OF fashion-mnist") for title in titles(substituted)
    )
    assert not any("IN PLACE" in title for title in titles(real))


def test_curves_hold_the_recorded_and_the_published_points(tmp_path: Path) -> None:
    from distributed_fmlp.report import curve_plots
    from distributed_fmlp.report.published import published_beside

    run = load_run(make_run(tmp_path / "run", rates=(0.001,)))
    published = published_beside(run, 0.001)
    figure = curve_plots.curves(run, run.trials, QUANTITIES[1], published)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    [trial] = run.trials
    recorded = [100 * row.val_accuracy for row in trial.epochs]
    assert list(lines["validation"].get_ydata()) == recorded
    assert list(lines["validation, published"].get_xdata()) == [1, 2, 25]
    assert list(lines["validation, published"].get_ydata()) == [86.62, 87.83, 90.63]
    assert list(lines["training, published"].get_ydata()) == [79.41, 84.56, 93.18]
    assert list(lines[f"chosen epoch ({trial.best_epoch})"].get_xdata()) == [trial.best_epoch]


def test_an_unfinished_curve_leaves_room_for_the_published_points(tmp_path: Path) -> None:
    from distributed_fmlp.report import curve_plots
    from distributed_fmlp.report.published import published_beside

    run = load_run(make_run(tmp_path / "run", rates=(0.001,), epochs=3))
    published = published_beside(run, 0.001)
    axes = curve_plots.curves(run, run.trials, QUANTITIES[0], published).axes[0]
    assert published is not None and axes.get_xlim()[1] > 25
    assert list(axes.get_xticks()) == [1, 5, 10, 15, 20, 25]


def test_the_band_over_seeds_runs_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    from distributed_fmlp.report import curve_plots

    run = load_run(make_run(tmp_path / "run", rates=(0.001,), seeds=(0, 1, 2), epochs=3))
    axes = curve_plots.curves(run, run.trials, QUANTITIES[0], None).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    per_seed = [[row.train_loss for row in trial.epochs] for trial in run.trials]
    means = [sum(values) / 3 for values in zip(*per_seed, strict=True)]
    assert list(lines["training: mean and range"].get_ydata()) == pytest.approx(means)
    corners = axes.collections[0].get_paths()[0].vertices
    at_second = sorted(float(y) for x, y in corners if x == 2)
    values = [seed[1] for seed in per_seed]
    assert (at_second[0], at_second[-1]) == pytest.approx((min(values), max(values)))


def test_the_confusion_matrix_writes_counts_and_row_percentages(tmp_path: Path) -> None:
    from distributed_fmlp.report import confusion_plot

    run = load_run(make_run(tmp_path / "run", rates=(0.001,), images=500))
    [trial] = run.trials
    assert trial.test_best is not None
    axes = confusion_plot.confusion_matrix(run, run.trials).axes[0]
    cells = [text.get_text() for text in axes.texts]
    first = trial.test_best.confusion_matrix[0]
    assert cells[:2] == [str(first[0]), f"{100 * first[0] / sum(first):.1f} %"]
    assert [label.get_text() for label in axes.get_yticklabels()] == FASHION


def test_the_same_numbers_give_the_same_bytes_whatever_the_users_matplotlib_settings(
    tmp_path: Path,
) -> None:
    import matplotlib

    one = load_run(make_run(tmp_path / "a" / "run", rates=(0.001,)))
    two = load_run(make_run(tmp_path / "b" / "run", rates=(0.001,)))
    build_report(one)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red"}):
        build_report(two)
    assert tree(one.path) == tree(two.path)


# The command


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-m", "distributed_fmlp.report", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_reports_the_newest_run(tmp_path: Path) -> None:
    make_run(tmp_path / "results/old", rates=(0.1,), created="2026-01-01T00:00:00+00:00")
    make_run(tmp_path / "results/new", rates=(0.1,), created="2026-01-02T00:00:00+00:00")
    done = run_command(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Run new on fashion-mnist" in done.stdout and "summary.md" in done.stdout
    assert (tmp_path / "results/new/summary.md").exists()
    assert not (tmp_path / "results/old/summary.md").exists()


@pytest.mark.slow
def test_a_run_of_20_trials_takes_less_than_10_seconds_of_processor_time(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", seeds=(0, 1, 2, 3, 4), images=10_000)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_command(str(path), cwd=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom distributed_fmlp.report.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'ray', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'jinja2'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "usage: python -m distributed_fmlp.report" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_a_run_is_found_by_path_and_by_name(tmp_path: Path) -> None:
    path = make_run(tmp_path / "results/run", rates=(0.1,))
    assert find_run("run", tmp_path / "results") == path
    assert find_run(str(path), tmp_path / "elsewhere") == path


@pytest.mark.parametrize("given", ["absent", "", "foreign", "newer", "x" * 5000])
def test_what_cannot_be_reported_is_one_line_and_nothing_is_written(
    tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "good", rates=(0.1,))
    make_run(tmp_path / "newer", rates=(0.1,), format_version=9)
    write_json(tmp_path / "foreign" / "run.json", {"version": 3})
    before = tree(tmp_path)
    assert main(["good", given, "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [["--bogus"], ["--data-dir"], ["--no-imag"], ["--out"], ["--results", ""]],
    ids=" ".join,
)
def test_a_bad_option_is_one_line_with_status_2(
    tmp_path: Path,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_runs_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path / "run", rates=(0.1,))
    (path / "plots").write_text("in the way")
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the report can't be written") and error.count("\n") == 1


def test_the_chosen_trial_of_the_summary_is_the_chosen_trial(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    chosen = choose(run.trials)
    assert chosen is not None
    assert [row.trial_id for row in summarize(run).rows if row.chosen] == [chosen.trial_id]
    assert why_not_beside(run) is None


def test_a_finished_run_that_lost_a_trial_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.001, 0.01), epochs=2)
    (path / "trials" / "lr_0.01_seed_0" / "trial.json").unlink()
    before = {each.name for each in path.iterdir()}
    with pytest.raises(RunError, match=r"lr_0\.01_seed_0/trial\.json is damaged \(missing"):
        load_run(path)
    assert main([str(path)]) == 2
    assert {each.name for each in path.iterdir()} == before
