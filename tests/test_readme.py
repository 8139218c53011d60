"""Every command in the README works: each is run, the long ones with less to train."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--dataset", "digits", "--epochs", "1", "--hidden", "16"]
TUNE = ["python", "-m", "distributed_fmlp.tune"]

# How a command is run here when not to the letter; what is given is added to the command.
SHORTER = {
    "python -m distributed_fmlp.tune --dataset digits --epochs 3 --name quick": [
        *("--hidden", "16", "--lr", "0.001", "--lr", "0.01")
    ],
    "python -m distributed_fmlp.tune --lr 0.001 --lr 0.0006 --seed 0 --seed 1 --seed 2": SMALL,
    "python -m distributed_fmlp.tune --hidden 512 128 --dropout 0.2 0.1 --epochs 10 "
    "--batch-size 128": ["--dataset", "digits", "--epochs", "1", "--lr", "0.001"],
    "python -m distributed_fmlp.tune --cpus-per-trial 1 --max-concurrent 2 --precision bf16": [
        *(*SMALL, "--lr", "0.001", "--lr", "0.01")
    ],
    "python -m distributed_fmlp.tune --schedule cosine --label-smoothing 0.1": [
        *(*SMALL, "--lr", "0.001")
    ],
    "python -m distributed_fmlp.tune --search random --samples 12 --space lr=0.0003:0.005 "
    "--space dropout=0.1:0.4": [*SMALL, "--samples", "2"],
}
# Commands that need what a test machine lacks, each with the test or fact that stands in for it.
ELSEWHERE = {
    "make sweep": "test_make_sweep_runs_the_sweep",
    "python -m distributed_fmlp.tune": "test_make_sweep_runs_the_sweep",
    "make test": "this very run, where CI started it",
    "python -m pytest": "this very run",
    "python3 -m venv .venv && . .venv/bin/activate": "test_the_plain_pip_way_is_what_make_does",
    "pip install --constraint constraints.txt --editable '.[test]'":
        "test_the_plain_pip_way_is_what_make_does",
    "tensorboard --logdir results/quick/tune": "test_tensorboard_files_are_where_the_readme_says",
    "python -m distributed_fmlp.serve": "serving/test_service.py",
    "python -m distributed_fmlp.serve status": "test_tune_serve.py",
    "python -m distributed_fmlp.serve promote again": "test_tune_serve.py",
    "python -m distributed_fmlp.serve rollback": "test_tune_serve.py",
    "python -m distributed_fmlp.tune --dataset digits --epochs 3 --name again --serve":
        "test_tune_serve.py",
    "python -m distributed_fmlp.tune --address auto --storage s3://bucket/sweeps":
        "test_a_cluster_that_is_not_there_is_one_clear_line",
    ". serve/throughput.sh": "serving/test_serve_readme.py",
    "serve run serve/config.yaml": "serving/test_serve_readme.py",
}  # fmt: skip


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.M | re.S)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def run(
    words: list[str], workplace: Path, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home or workplace)}
    return subprocess.run(
        words, cwd=workplace, env=environment, capture_output=True, text=True, timeout=240
    )


def test_every_command_is_accounted_for() -> None:
    found = commands()
    assert len(found) > 10
    runnable = {*SHORTER, *ELSEWHERE}
    others = {line for line in found if line not in runnable}
    for line, instead in ELSEWHERE.items():
        if instead.endswith(".py"):
            assert line in (ROOT / "tests" / instead).read_text("utf-8"), f"{instead}: {line}"
    assert all(line.startswith("python -m distributed_fmlp.") for line in others), others
    assert set(runnable) <= set(found), "a command left the README but not this test"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_run_in_the_readmes_order(workplace: Path) -> None:
    for line in commands():
        if line in ELSEWHERE:
            continue
        done = run([*shlex.split(line), *SHORTER.get(line, [])], workplace)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (workplace / "results" / "quick" / "plots" / "loss_Arch_16_lr_0.001.png").is_file()


@pytest.mark.slow
def test_tensorboard_files_are_where_the_readme_says(workplace: Path) -> None:
    quick = workplace / "results" / "quick"
    if not quick.exists():
        run([*TUNE, *SMALL, "--lr", "0.001", "--name", "quick"], workplace)
    assert list((quick / "tune").rglob("events.out.tfevents.*"))


def test_a_cluster_that_is_not_there_is_one_clear_line(workplace: Path) -> None:
    line = "python -m distributed_fmlp.tune --address auto --storage s3://bucket/sweeps"
    assert line in commands()
    # A port where nothing listens stands for auto, which would join whatever Ray runs here.
    words = shlex.split(line.replace("auto", "127.0.0.1:1"))
    done = run([*words, "--dataset", "digits"], workplace)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "s3://bucket/sweeps" in done.stderr  # the storage is asked before the cluster


def test_the_plain_pip_way_is_what_make_does() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not on this machine")
    done = subprocess.run(
        [make, "-n", "-B", "lint", "VENV=.other"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"python3? -m venv \.other", done.stdout)
    assert re.search(r"pip install .*--constraint constraints\.txt --editable '\.\[test\]'",
                     done.stdout)  # fmt: skip


@pytest.mark.slow
def test_make_sweep_runs_the_sweep(workplace: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not on this machine")
    options = [*SMALL, "--lr", "0.01", "--results", str(workplace / "made"), "--name", "made"]
    # With the environment that runs this test where make has built it, so nothing is installed.
    own_venv = Path(sys.prefix) == ROOT / ".venv"
    dry = [] if own_venv else ["-n"]
    done = run([make, *dry, "sweep", f"ARGS={shlex.join(options)}"], ROOT, home=workplace)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "-m distributed_fmlp.tune" in line)
    assert shlex.split(line)[1:] == [*TUNE[1:], *options]
    if not own_venv:
        done = run([*TUNE, *options], workplace)
        assert done.returncode == 0, done.stderr
    assert (workplace / "made" / "made" / "bundle" / "manifest.json").is_file()
