"""How a sweep begins and ends in words, and what it leaves in its directory."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TextIO

from distributed_fmlp import provenance
from distributed_fmlp.errors import RunError, StorageError
from distributed_fmlp.options import SweepOptions
from distributed_fmlp.report import build_report, render_summary
from distributed_fmlp.report.searched import search_words
from distributed_fmlp.report.summary import substitution_banner
from distributed_fmlp.run_directory import Run
from distributed_fmlp.sweep.checkpoints import prune
from distributed_fmlp.sweep.job import Sweep, is_settled
from distributed_fmlp.sweep.outcome import compile_trials, deliver_bundle
from distributed_fmlp.sweep.resources import Plan

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def greet(sweep: Sweep, plan: Plan, out: TextIO, logs: Sequence[str]) -> None:
    """Say what is about to be trained, on what, and where it goes."""
    info = sweep.info
    data, additions = info["dataset"], sweep.options.recipe.additions
    searched = search_words(Run(sweep.path, info, sweep.trials))
    device = f"{plan.gpus_per_trial:g} GPU and " if plan.gpus_per_trial else ""
    say_banner(sweep, out)
    _say(
        out,
        f"Run {info['name']}: {len(sweep.trials)} trials of {sweep.options.epochs} epochs, "
        f"{plan.at_once} at once, {device}{plan.cpus_per_trial} CPU each",
        f"Data {data['name']} (SHA-256 {data['sha256'][:12]}): {data['n_train']:,} to train, "
        f"{data['n_validation']:,} to choose by, {data['n_test']:,} to test",
        *([f"Random search: {searched}; the worse trials are stopped early"] if searched else []),
        *([f"Not the published recipe: {'; '.join(additions)}"] if additions else []),
        f"Checkpoints {sweep.storage.shown}",
        f"Ray's logs {' and '.join(logs)}",
        "",
    )


def finish(sweep: Sweep, out: TextIO) -> int:
    """Write the run's results and say where they are; gives the exit status."""
    info, run_id = sweep.info, sweep.info["run_id"]
    try:
        sweep.trials = compile_trials(sweep.path, sweep.storage, run_id, sweep.trials)
        for trial in sweep.trials:
            prune(sweep.storage, run_id, trial.trial_id)
        failed = any(trial.status == "failed" for trial in sweep.trials)
        bundle = deliver_bundle(sweep.path, sweep.storage)
        _end_attempt(sweep, "failed" if failed else "finished")
        with _plotting_cache():
            summary = build_report(Run(sweep.path, info, sweep.trials))
        sweep.save()  # last, so that a run that says it has ended has everything
    except (OSError, RunError) as error:
        raise _unwritten(sweep, error) from error
    python = shlex.quote(provenance.python())
    _say(out, "", render_summary(summary), "", f"Run        {sweep.path}")
    if bundle is not None:
        _say(out, f"Bundle     {bundle.path} (version {bundle.version})")
    _say(
        out,
        f"Plots      {sweep.path / 'plots'}",
        f"Took       {info['seconds']:.0f} s",
        "",
        f"Serve it   {python} -m distributed_fmlp.serve {shlex.quote(str(sweep.path))}",
        f"Report     {python} -m distributed_fmlp.report {shlex.quote(str(sweep.path))}",
        f"Curves     tensorboard --logdir {shlex.quote(sweep.storage.shown)}"
        + ("" if find_spec("tensorboard") else "  (pip install tensorboard)"),
    )
    if not all(map(is_settled, sweep.trials)):
        _say(out, f"Try again  {_resume_command(sweep)}")
    say_banner(sweep, out)
    return EXIT_FAILED if failed else 0


def stop(sweep: Sweep, out: TextIO) -> int:
    """Write down how far an interrupted run has come, and how to go on."""
    try:
        sweep.trials = compile_trials(sweep.path, sweep.storage, sweep.info["run_id"], sweep.trials)
        for trial in sweep.trials:
            prune(sweep.storage, sweep.info["run_id"], trial.trial_id)
        _end_attempt(sweep, "stopped")
        sweep.save()
    except OSError as error:
        raise _unwritten(sweep, error) from error
    done = sum(len(trial.epochs) for trial in sweep.trials)
    total = sum(
        len(trial.epochs) if trial.status == "stopped" else sweep.options.epochs
        for trial in sweep.trials
    )
    _say(
        out,
        "",
        f"Stopped; {done} of {total} epochs are kept. To go on:",
        f"  {_resume_command(sweep)}",
    )
    return EXIT_INTERRUPTED


def _end_attempt(sweep: Sweep, outcome: str) -> None:
    info = sweep.info
    if info["attempts"] and info["attempts"][-1]["ended"] is None:
        info["attempts"][-1] |= {"ended": provenance.now(), "outcome": outcome}
    info["status"] = outcome
    if outcome != "stopped":
        info["finished"] = provenance.now()


@contextlib.contextmanager
def _plotting_cache() -> Iterator[None]:
    """Keep matplotlib from writing its list of fonts to HOME, unless told where to."""
    if "MPLCONFIGDIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fmlp-fonts-") as directory:
        os.environ["MPLCONFIGDIR"] = directory
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


def _unwritten(sweep: Sweep, error: OSError | RunError) -> StorageError:
    # The report's own advice, to make it again, would leave the run unended: only resuming ends it.
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    reason = (cause.strerror if isinstance(cause, OSError) else None) or cause
    return StorageError(
        f"the results can't be written to {sweep.path} ({reason}): what is "
        f"trained is kept; make room, then {_resume_command(sweep)}"
    )


def _resume_command(sweep: Sweep) -> str:
    return sweep.options.command(
        resume=sweep.info["name"],
        recorded=SweepOptions.from_json(sweep.info["options"]),
        python=provenance.python(),
        serve_port=sweep.serve_port,
    )


def say_banner(sweep: Sweep, out: TextIO) -> None:
    banner = substitution_banner(Run(sweep.path, sweep.info, sweep.trials))
    if banner:
        _say(out, "", banner, "")


def _say(out: TextIO, *lines: str) -> None:
    print(*lines, sep="\n", file=out, flush=True)
