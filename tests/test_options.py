"""The command line: each value checked in one line, and every option kept through a run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distributed_fmlp
from distributed_fmlp import tune
from distributed_fmlp.command_line import build_parser
from distributed_fmlp.errors import OptionError, RunError
from distributed_fmlp.options import (
    FREE_ON_RESUME,
    SweepOptions,
    parse,
    resumed_options,
)
from distributed_fmlp.recipe import RECIPE_FIELDS, Recipe
from distributed_fmlp.search_space import SEARCHED, Range

LATER = {*RECIPE_FIELDS, "search", "samples", "space"}  # not in the first runs
ROOT = Path(distributed_fmlp.__file__).parents[1]
PUBLISHED = SweepOptions(
    dataset="auto",
    lr=(0.005, 0.001, 0.0009, 0.0006),
    epochs=25,
    batch_size=64,
    dropout=(0.3,),
    hidden=(1024, 512, 256, 128),
    seed=(0,),
    val_fraction=0.2,
    precision="fp32",
    schedule="constant",
    label_smoothing=0.0,
    weight_decay=0.0,
    max_failures=3,
)

# --- what is refused

BAD = [
    ("--lr", "0"),
    ("--lr", "-0.001"),
    ("--lr", "-1e-3"),
    ("--lr", "nan"),
    ("--lr", "inf"),
    ("--lr", "1e-400"),
    ("--lr", "fast"),
    ("--lr", ""),
    ("--lr", "-1\n"),
    ("--epochs", "0"),
    ("--epochs", "-3"),
    ("--epochs", "2.5"),
    ("--epochs", "99999999999999999999"),
    ("--batch-size", "0"),
    ("--batch-size", "1"),
    ("--dropout", "1"),
    ("--dropout", "-0.1"),
    ("--dropout", "nan"),
    ("--dropout", "0.3", "0.3"),
    ("--hidden", "0"),
    ("--hidden", "64", "-1"),
    ("--hidden", "99999999"),
    ("--dropout", "0.1", "0.2", "0.3", "--hidden", "64", "32"),
    ("--seed", "-1"),
    ("--seed", "0", "--seed", "0"),
    ("--lr", "0.001", "--lr", "1e-3"),
    ("--val-fraction", "0"),
    ("--val-fraction", "1"),
    ("--val-fraction", "a fifth"),
    ("--dataset", "mnist"),
    ("--data-dir", "/nowhere/at/all"),
    ("--data-dir", ""),
    ("--precision", "fp16"),
    ("--schedule", "linear"),
    ("--schedule", ""),
    ("--label-smoothing", "1"),
    ("--label-smoothing", "-0.1"),
    ("--label-smoothing", "nan"),
    ("--weight-decay", "-0.01"),
    ("--weight-decay", "inf"),
    ("--search", "bayes"),
    ("--samples", "0", "--search", "random"),
    ("--samples", "8"),
    ("--space", "lr=0.001:0.01"),
    ("--space", "momentum=0:1", "--search", "random"),
    ("--space", "lr", "--search", "random"),
    ("--space", "lr=0.001", "--search", "random"),
    ("--space", "lr=0:0.01", "--search", "random"),
    ("--space", "lr=0.01:0.001", "--search", "random"),
    ("--space", "lr=0.01:0.01", "--search", "random"),
    ("--space", "lr=a:b", "--search", "random"),
    ("--space", "lr=0.001:inf", "--search", "random"),
    ("--space", "dropout=0:1", "--search", "random"),
    ("--space", "weight-decay=-1:2", "--search", "random"),
    ("--space", "lr=1e-4:1e-2", "--space", "lr=1e-3:1e-2", "--search", "random"),
    ("--space", "label-smoothing=0:0.2", "--label-smoothing", "0.1", "--search", "random"),
    ("--lr", "0.001", "--search", "random"),
    ("--cpus-per-trial", "0"),
    ("--cpus-per-trial", "1.5"),
    ("--gpus-per-trial", "-1"),
    ("--gpus-per-trial", "1.5"),
    ("--gpus-per-trial", "inf"),
    ("--max-concurrent", "0"),
    ("--max-failures", "-1"),
    ("--name", "../elsewhere"),
    ("--name", "a/b"),
    ("--name", "a\\b"),
    ("--name", ".."),
    ("--name", "."),
    ("--name", ".hidden"),
    ("--name", "-x"),
    ("--name", "~root"),
    ("--name", ""),
    ("--name", "  "),
    ("--name", "two\nlines"),
    ("--name", "n" * 101),
    ("--resume", ".hidden"),
    ("--resume", "results/.hidden"),
    ("--resume", "/"),
    ("--resume", "~nobody-of-this-name/run"),
    ("--resume", "here/run", "--results", "there"),
    ("--resume", "here/run", "--name", "other"),
    ("--resume", "a", "--name", "b"),
    ("--results", ""),
    ("--storage", ""),
    ("--lr",),
    ("--epoch", "3"),  # an abbreviation may mean something else tomorrow
    ("--unknown\noption", "3"),
    ("stray",),
]


@pytest.mark.parametrize("arguments", BAD, ids=lambda words: " ".join(words)[:50])
def test_a_bad_value_is_refused_in_one_line_that_names_the_option_with_status_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    option = " ".join(arguments[0].split())
    assert option in err


def test_a_refusal_says_what_was_given_and_what_to_give() -> None:
    with pytest.raises(OptionError, match=r"--lr: '-1' can't be used; give a learning rate above"):
        parse(["--lr", "-1"])
    with pytest.raises(OptionError, match="--epochs: 'x' is not a whole number; give at least 1"):
        parse(["--epochs", "x"])
    with pytest.raises(OptionError, match="--hidden: '65537' can't be used; give at most 65536"):
        parse(["--hidden", "64", "65537"])
    with pytest.raises(OptionError, match="--seed: '99999999999' can't be used; give at most 2147"):
        parse(["--seed", "99999999999"])


# --- what is taken


def test_no_options_ask_for_the_published_sweep() -> None:
    request = parse([])
    assert request.options == PUBLISHED == SweepOptions()
    assert request.given == frozenset()
    assert request.resume is None
    assert request.options.architecture.dropout == (0.3, 0.3, 0.3, 0.3)


def test_every_option_is_taken() -> None:
    request = parse(
        shlex.split(
            "--dataset digits --data-dir / --lr 0.1 --lr 1e-05 --epochs 2 --batch-size 8 "
            "--dropout 0 0.5 --hidden 64 32 --seed 4 --seed 2 --val-fraction 0.25 "
            "--cpus-per-trial 2 --gpus-per-trial 0.25 --max-concurrent 3 --precision bf16 "
            "--schedule cosine --label-smoothing 0.1 --weight-decay 0.05 "
            "--name été --results r --storage s3://bucket/path --address auto "
            "--max-failures 0 --quiet"
        )
    )
    assert request.options == SweepOptions(
        dataset="digits",
        data_dir="/",
        lr=(0.1, 1e-05),
        epochs=2,
        batch_size=8,
        dropout=(0.0, 0.5),
        hidden=(64, 32),
        seed=(4, 2),
        val_fraction=0.25,
        cpus_per_trial=2,
        gpus_per_trial=0.25,
        max_concurrent=3,
        precision="bf16",
        schedule="cosine",
        label_smoothing=0.1,
        weight_decay=0.05,
        name="été",
        results="r",
        storage="s3://bucket/path",
        address="auto",
        max_failures=0,
        quiet=True,
    )
    assert request.options.architecture.dropout == (0.0, 0.5)


def test_a_random_search_takes_ranges_and_searches_by_default_what_no_option_fixes() -> None:
    options = parse(
        shlex.split("--search random --space weight-decay=0:.5 --samples 3 --seed 7")
    ).options
    assert (options.search, options.n_samples, options.seed) == ("random", 3, (7,))
    assert options.space == ("weight-decay=0.0:0.5",)
    assert list(options.ranges) == ["lr", "weight_decay"]  # the learning rate is always searched
    usual = parse(["--search", "random"]).options
    assert (usual.n_samples, list(usual.ranges)) == (16, ["lr", "dropout", "label_smoothing"])
    fixed = parse(["--search", "random", "--dropout", "0.2"]).options
    assert list(fixed.ranges) == ["lr", "label_smoothing"]
    with pytest.raises(OptionError, match="--search random takes one --seed"):
        parse(["--search", "random", "--seed", "0", "--seed", "1"])


def test_directories_are_made_absolute_where_trials_or_a_resumed_run_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    options = parse(["--data-dir", "data", "--storage", "there"]).options
    assert options.data_dir == str(tmp_path / "data")
    assert options.storage == str(tmp_path / "there")


def test_every_option_has_a_field_and_every_field_an_option() -> None:
    of_this_command = ("help", "resume", "serve", "port")
    options = {
        action.dest for action in build_parser()._actions if action.dest not in of_this_command
    }
    assert options == set(SweepOptions.__dataclass_fields__)
    assert options >= FREE_ON_RESUME


def test_serving_afterwards_is_asked_of_one_command_and_not_kept_by_the_run() -> None:
    assert parse([]).serve_port is None
    assert parse(["--serve"]).serve_port == 8000
    request = parse(["--resume", "run", "--serve", "--port", "81"])
    assert request.serve_port == 81 and request.given == frozenset()
    assert resumed_options(request, PUBLISHED) == replace(PUBLISHED, results="results")
    for words in (["--port", "81"], ["--serve", "--port", "0"], ["--serve", "--port", "65536"]):
        with pytest.raises(OptionError):
            parse(words)


# --- kept through a run

positive = st.floats(1e-12, 1e6, exclude_min=True)
names = st.text(min_size=1, max_size=20).filter(
    lambda text: text.strip() and text[0] not in ".-~" and text.isprintable()
    and not set("/\\") & set(text)
)  # fmt: skip


@st.composite
def any_search(draw: st.DrawFn) -> dict[str, Any]:
    """Options of a random search, and none that contradict it."""
    bounds = st.tuples(st.floats(0.001, 0.4), st.floats(0.5, 0.9))
    names = draw(st.lists(st.sampled_from(SEARCHED), unique=True))
    return {
        "search": "random",
        "samples": draw(st.none() | st.integers(1, 1000)),
        "space": tuple(str(Range(name, *draw(bounds))) for name in names),
        "lr": SweepOptions().lr,
        "seed": (draw(st.integers(0, 2**31 - 1)),),
        **{name: getattr(SweepOptions(), name) for name in names},
    }


@st.composite
def any_options(draw: st.DrawFn) -> SweepOptions:
    hidden = tuple(draw(st.lists(st.integers(1, 65536), min_size=1, max_size=5)))
    rates = st.floats(0, 1, exclude_max=True)
    count = draw(st.sampled_from([1, len(hidden)]))
    grid = SweepOptions(
        dataset=draw(st.sampled_from(["auto", "digits", "fashion-mnist"])),
        lr=tuple(draw(st.lists(positive, min_size=1, max_size=4, unique=True))),
        epochs=draw(st.integers(1, 10**9)),
        batch_size=draw(st.integers(2, 10**9)),
        dropout=tuple(draw(st.lists(rates, min_size=count, max_size=count))),
        hidden=hidden,
        seed=tuple(draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, unique=True))),
        val_fraction=draw(st.floats(0, 1, exclude_min=True, exclude_max=True)),
        cpus_per_trial=draw(st.none() | st.integers(1, 100)),
        gpus_per_trial=draw(st.none() | st.floats(0, 1) | st.integers(1, 8).map(float)),
        max_concurrent=draw(st.none() | st.integers(1, 100)),
        precision=draw(st.sampled_from(["fp32", "bf16"])),
        schedule=draw(st.sampled_from(["constant", "cosine"])),
        label_smoothing=draw(rates),
        weight_decay=draw(st.floats(0, 10)),
        name=draw(st.none() | names),
        results=draw(st.sampled_from(["results", "/a b/c", "-r", "it's"])),
        storage=draw(st.none() | st.sampled_from(["s3://bucket/a b", "/mnt/x y"])),
        address=draw(st.none() | st.sampled_from(["auto", "10.0.0.1:6379"])),
        max_failures=draw(st.integers(0, 100)),
        quiet=draw(st.booleans()),
    )
    return replace(grid, **draw(any_search())) if draw(st.booleans()) else grid


@given(any_options())
@settings(max_examples=200, deadline=None)
def test_options_come_back_from_json_and_from_the_command_that_reproduces_them(
    options: SweepOptions,
) -> None:
    assert SweepOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    words = shlex.split(options.command())
    assert words[:3] == ["python", "-m", "distributed_fmlp.tune"]
    assert parse(words[3:]).options == options


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "many"),
        ("epochs", "5"),
        ("epochs", 0),
        ("epochs", None),
        ("epochs", True),
        ("lr", 0.001),
        ("lr", [-1.0]),
        ("lr", [[0.001]]),
        ("lr", ["0.001"]),
        ("lr", []),
        ("dropout", [1.5]),
        ("dropout", None),
        ("hidden", {"first": 64}),
        ("seed", [0.5]),
        ("precision", "fp64"),
        ("schedule", "cosin"),
        ("schedule", None),
        ("label_smoothing", "0.1"),
        ("label_smoothing", 1.0),
        ("weight_decay", -1.0),
        ("name", "../escape"),
        ("name", ["a", "b"]),
        ("storage", 3),
        ("quiet", "yes"),
        ("batch_size", [64]),
    ],
)
def test_recorded_options_that_no_command_line_could_give_are_refused(key: str, value: Any) -> None:
    recorded = {**SweepOptions().to_json(), key: value}
    with pytest.raises((OptionError, TypeError, ValueError)):
        SweepOptions.from_json(recorded)


@pytest.mark.parametrize("key", sorted(SweepOptions().to_json().keys() - LATER))
def test_a_recorded_option_that_is_missing_is_no_default(key: str) -> None:
    recorded = SweepOptions().to_json()
    del recorded[key]
    with pytest.raises(OptionError, match=key):
        SweepOptions.from_json(recorded)


def test_a_recorded_option_that_this_version_does_not_have_is_not_passed_over() -> None:
    recorded = {**SweepOptions(name="old").to_json(), "shift": 0.0, "flip": 0.5}
    with pytest.raises(RunError, match=r"run old was made by another version .*\(flip, shift\)"):
        SweepOptions.from_json(recorded)


def test_a_run_recorded_before_recipes_could_be_chosen_has_the_published_one() -> None:
    options = SweepOptions(epochs=3, lr=(0.01,))
    recorded = {key: value for key, value in options.to_json().items() if key not in LATER}
    assert SweepOptions.from_json(recorded) == options
    assert options.recipe == Recipe()
    request = parse(["--resume", "old", "--schedule", "cosine"])
    with pytest.raises(OptionError, match=r"--schedule cosine contradicts .* with constant"):
        resumed_options(request, SweepOptions.from_json(recorded))


def test_a_recorded_data_directory_may_have_gone() -> None:
    recorded = {**SweepOptions().to_json(), "data_dir": "/was/here/once"}
    assert SweepOptions.from_json(recorded).data_dir == "/was/here/once"


# --- resuming

RECORDED = SweepOptions(
    dataset="digits", lr=(0.01,), hidden=(64, 32), epochs=7, name="run", cpus_per_trial=None,
    address="10.0.0.1:6379", quiet=True, results="/elsewhere", data_dir="/data",
)  # fmt: skip

CONTRADICTIONS = {
    "--dataset": "fashion-mnist",
    "--lr": "0.02",
    "--epochs": "8",
    "--batch-size": "32",
    "--dropout": "0.4",
    "--hidden": "64 33",
    "--seed": "1",
    "--val-fraction": "0.3",
    "--cpus-per-trial": "1",
    "--gpus-per-trial": "0",
    "--precision": "bf16",
    "--schedule": "cosine",
    "--label-smoothing": "0.1",
    "--weight-decay": "0.1",
    "--search": "random",
    "--storage": "/mnt/other",
}
OF_A_SEARCH = {"samples", "space"}  # refused without --search random, so never on their own


def test_every_option_is_either_free_on_resume_or_refused_when_it_contradicts_the_run() -> None:
    asked = {option.removeprefix("--").replace("-", "_") for option in CONTRADICTIONS}
    assert asked | FREE_ON_RESUME | OF_A_SEARCH | {"name"} == set(SweepOptions.__dataclass_fields__)


@pytest.mark.parametrize("option", CONTRADICTIONS)
def test_an_option_that_contradicts_the_run_is_refused_by_name(option: str) -> None:
    request = parse(["--resume", "run", option, *CONTRADICTIONS[option].split()])
    with pytest.raises(OptionError, match=rf"^{option} .*contradicts the run run") as caught:
        resumed_options(request, RECORDED)
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--lr 0.01",
        "--hidden 64 32",
        "--dropout 0.3",
        "--hidden 64 32 --dropout 0.3 0.3",
        "--epochs 7 --dataset digits --seed 0 --precision fp32 --name run",
    ],
)
def test_options_that_say_what_the_run_has_are_taken_on_resume(words: str) -> None:
    request = parse(["--resume", "run", *words.split()])
    resumed = resumed_options(request, RECORDED)
    assert (resumed.lr, resumed.epochs, resumed.hidden) == ((0.01,), 7, (64, 32))
    assert resumed.data_dir == "/data"


def test_a_search_is_resumed_with_its_own_samples_and_ranges() -> None:
    words = ["--search", "random", "--samples", "4", "--space", "lr=0.001:0.01"]
    recorded = parse(words).options
    assert resumed_options(parse(["--resume", "run", *words]), recorded).samples == 4
    other = ["--resume", "run", *words[:2], "--samples", "5"]
    with pytest.raises(OptionError, match="--samples 5 contradicts the run run"):
        resumed_options(parse(other), recorded)


def test_where_and_how_to_run_may_be_said_anew_on_resume() -> None:
    words = "--resume run --data-dir / --results /r --address auto --max-concurrent 1"
    resumed = resumed_options(parse([*words.split(), "--max-failures", "9"]), RECORDED)
    assert resumed.data_dir == "/"
    assert resumed.results == "/r"
    assert resumed.address == "auto"
    assert resumed.max_concurrent == 1
    assert resumed.max_failures == 9
    assert resumed.quiet is False


def test_the_printed_resume_command_finds_the_run_where_it_was_found_now() -> None:
    resumed = resumed_options(parse(["--resume", "run"]), RECORDED)
    assert resumed.command(resume="run") == "python -m distributed_fmlp.tune --resume run"
    resumed = resumed_options(parse(["--resume", "run", "--results", "a b"]), RECORDED)
    request = parse(shlex.split(resumed.command(resume="run"))[3:])
    assert (request.resume, request.options.results) == ("run", "a b")


@pytest.mark.parametrize(
    ("given", "results", "printed"),
    [
        ("results/run", "results", "--resume run"),
        ("./results/run/", "results", "--resume run"),
        ("../kept/run", "../kept", "--resume run --results ../kept"),
        ("run/", ".", "--resume run --results ."),
        ("/mnt/kept/run", "/mnt/kept", "--resume run --results /mnt/kept"),
        ("results/run --results results/", "results", "--resume run"),
    ],
)
def test_a_run_to_resume_may_be_given_by_its_path(given: str, results: str, printed: str) -> None:
    request = parse(["--resume", *given.split()])
    assert (request.resume, request.options.results) == ("run", results)
    options = resumed_options(request, RECORDED)
    command = options.command(resume="run", recorded=RECORDED)
    assert command == f"python -m distributed_fmlp.tune {printed}"


def test_the_directory_of_the_shell_may_be_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept" / "run" / "plots").mkdir(parents=True)
    for here, words in (("kept/run", "."), ("kept/run/plots", ".."), ("kept/run/plots", "../.")):
        monkeypatch.chdir(tmp_path / here)
        request = parse(["--resume", words])
        assert (request.resume, request.options.results) == ("run", str(tmp_path / "kept"))


def test_the_printed_resume_command_has_what_was_asked_of_the_command_beside_the_run() -> None:
    words = ["--resume", "run", "--quiet", "--address", "auto", "--max-failures", "9", "--serve"]
    for more, port in (([], 8000), (["--port", "81"], 81)):
        request = parse([*words, *more])
        options = resumed_options(request, RECORDED)
        command = options.command(resume="run", recorded=RECORDED, serve_port=request.serve_port)
        again = parse(shlex.split(command)[3:])
        assert again.serve_port == port
        assert resumed_options(again, RECORDED) == options
    # What the run was started with needs no second word, and what it was not is not asked for.
    resumed = resumed_options(parse(["--resume", "run"]), RECORDED)
    command = resumed.command(resume="run", recorded=RECORDED)
    assert command == "python -m distributed_fmlp.tune --resume run"


# --- quick


def test_help_answers_in_under_a_second_and_names_every_option() -> None:
    times = []
    for _ in range(3):  # the quickest of three: other processes may want the machine too
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "distributed_fmlp.tune", "--help"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        times.append(time.perf_counter() - started)
        assert done.returncode == 0
    assert min(times) < 1.0
    for field in SweepOptions.__dataclass_fields__:
        assert "--" + field.replace("_", "-") in done.stdout


def test_importing_the_command_imports_nothing_heavy_and_touches_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; before = dict(os.environ); import distributed_fmlp.tune\n"
        "assert dict(os.environ) == before\n"
        "heavy = {'ray', 'torch', 'numpy', 'sklearn', 'pandas', 'matplotlib', 'rich'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
