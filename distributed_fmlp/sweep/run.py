"""A sweep from options to a finished run directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import filelock

from distributed_fmlp import provenance
from distributed_fmlp.errors import ClusterError, OptionError, RunError, StorageError
from distributed_fmlp.options import Request, SweepOptions, resumed_options
from distributed_fmlp.ray_session import diverted_output, ray_session, uninterrupted
from distributed_fmlp.records import TrialRecord
from distributed_fmlp.run_directory import Run, load_run
from distributed_fmlp.standard_output import tell
from distributed_fmlp.sweep import closing, resources
from distributed_fmlp.sweep.autoscaling import PATIENCE_SECONDS, ask_for_nodes
from distributed_fmlp.sweep.checkpoints import attempts, scratch_directory
from distributed_fmlp.sweep.job import (
    Sweep,
    is_settled,
    new_sweep,
    recorded_options,
    resumed_sweep,
)
from distributed_fmlp.sweep.outcome import known_trials, lost_epochs
from distributed_fmlp.sweep.progress import show_progress
from distributed_fmlp.sweep.reach import check_every_node
from distributed_fmlp.sweep.storage import worker_environment


def run_sweep(request: Request) -> tuple[int, Path]:
    """Run or resume a sweep; gives the exit status and the run's directory.

    Raises `UserError` when something given can't be used; a new run leaves nothing behind then.
    """
    _stop_on_sigterm()
    if request.resume is None:
        sweep = replace(new_sweep(request.options), serve_port=request.serve_port)
        with _run_directory(sweep.path, new=True) as directory:
            return _attempt(sweep, directory, new=True), sweep.path
    path = Path(request.options.results).expanduser() / request.resume
    # Looked at before a lock is put into it: what is no run, or has ended, is left as it is.
    run, options = _resumable(path, request)
    if _has_ended(run):
        return _nothing_to_resume(run), path
    with _run_directory(path, new=False) as directory:
        # Read again: whoever held the lock until now may have finished the run.
        run, options = _resumable(path, request)
        if _has_ended(run):
            return _nothing_to_resume(run), path
        try:
            sweep = replace(resumed_sweep(run, options), serve_port=request.serve_port)
            return _attempt(sweep, directory, new=False), path
        except KeyboardInterrupt:
            command = options.command(
                resume=request.resume,
                recorded=recorded_options(run),
                python=provenance.python(),
                serve_port=request.serve_port,
            )
            print(
                "Stopped before training went on; what was kept is unchanged. To go on:\n"
                f"  {command}"
            )
            return closing.EXIT_INTERRUPTED, path


def _resumable(path: Path, request: Request) -> tuple[Run, SweepOptions]:
    """A run that is there, and its options with what the command says anew."""
    run = load_run(path)
    resources = run.info.get("resources", {})
    return run, resumed_options(request, recorded_options(run), resources)


def _has_ended(run: Run) -> bool:
    """Whether everything is trained and written down."""
    return run.info["status"] in ("finished", "failed") and all(map(is_settled, run.trials))


def _nothing_to_resume(run: Run) -> int:
    status = run.info["status"]
    tell(
        f"Run {run.info['name']} is {status}: there is nothing to resume, and nothing was changed. "
        f"It is in {run.path}"
    )
    return 0 if status == "finished" else closing.EXIT_FAILED


def _stop_on_sigterm() -> None:
    """Let SIGTERM stop a sweep as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class _RunDirectory:
    """Told when the run has really begun: until then a new one is removed again."""

    begun = False


@contextlib.contextmanager
def _run_directory(path: Path, *, new: bool) -> Iterator[_RunDirectory]:
    """Hold a run's directory for this process alone, made first when it is `new`."""
    made = [parent for parent in (path, *path.parents) if not os.path.exists(parent)] if new else []
    directory = _RunDirectory()
    lock = filelock.FileLock(path / ".lock", blocking=False)
    try:
        if new:
            path.mkdir(parents=True)
        lock.acquire()
    except FileExistsError as error:
        if not new or not path.is_dir():
            raise _unwritable(path, error) from error
        raise RunError(
            f"run {path.name} exists in {path.parent}: another sweep has just made it; choose "
            "another --name"
        ) from error
    except filelock.Timeout as error:
        raise RunError(
            f"run {path.name} is being run by another process: wait for it, or stop it first"
        ) from error
    except OSError as error:
        _remove(made)
        raise _unwritable(path, error) from error
    try:
        yield directory
    except OSError as error:
        # A full disk can show itself anywhere; a trial's own checkpoints are whole or ignored.
        raise StorageError(
            f"the run in {path} can't go on ({error.strerror or error}): make room or mend the "
            "disk, then "
            + (f"resume it with --resume {path.name}" if directory.begun else "start it again")
        ) from error
    finally:
        lock.release()
        if made and not directory.begun:
            shutil.rmtree(path, ignore_errors=True)
            _remove(made)


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} can't be written ({error.strerror}): make it writable, or choose another place "
        "with --results"
    )


def _remove(made: list[Path]) -> None:
    for directory in made:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _attempt(sweep: Sweep, directory: _RunDirectory, *, new: bool) -> int:
    """Train what is unfinished, then write everything down; gives the exit status."""
    sweep.storage.check_writable()
    if new and attempts(sweep.storage):
        raise StorageError(
            f"{sweep.storage.shown} holds the checkpoints of another run of this name: choose "
            "another --name, or another --storage"
        )
    log = sweep.path / "logs" / "ray.log"
    started = time.monotonic()
    known = known_trials(sweep.storage, sweep.info["run_id"], sweep.trials)
    _tell_of_lost_epochs(sweep, known)
    sweep.trials = known
    with _scratch(sweep.info["run_id"]), diverted_output(log) as out:
        try:
            if sweep.pending:
                _train(sweep, directory, out, log)
            directory.begun = True
        except KeyboardInterrupt:
            if not directory.begun:
                raise
        with uninterrupted():
            sweep.info["seconds"] = round(sweep.info["seconds"] + time.monotonic() - started, 3)
            unended = [trial for trial in sweep.pending if trial.status != "failed"]
            return closing.stop(sweep, out) if unended else closing.finish(sweep, out)


def _tell_of_lost_epochs(sweep: Sweep, known: list[TrialRecord]) -> None:
    """Say which trials had come further than their checkpoints now tell.

    Raises `StorageError` where no checkpoint at all is left: more likely than lost, they are
    somewhere that isn't reached now, such as a disk that isn't mounted.
    """
    lost = lost_epochs(sweep.trials, known)
    if not lost:
        return
    if not attempts(sweep.storage):
        raise StorageError(
            f"the checkpoints of run {sweep.info['name']} are gone from {sweep.storage.shown}: "
            "bring them back (is its disk or share mounted?), or start a new run"
        )
    trials = ", ".join(f"{trial} (from epoch {first})" for trial, first in lost.items())
    print(
        f"note: checkpoints are gone from {sweep.storage.shown} or damaged; trained again, to the "
        f"same weights: {trials}",
        file=sys.stderr,
    )


def _train(sweep: Sweep, directory: _RunDirectory, out: TextIO, log: Path) -> None:
    options = sweep.options
    # Tune gives its trials an environment, and so workers of their own: idle ones have no use.
    session = ray_session(
        options.address, worker_environment=worker_environment(), idle_workers=False
    )
    with session as ray_logs:
        _stop_on_sigterm()  # Ray has put its own handler there
        from distributed_fmlp.sweep.tuning import tune_trials  # takes seconds

        if options.address is not None:
            _ask_for_nodes(sweep, out)
        plan = _plan(sweep)
        if sweep.info["machine"]["nodes"] > 1 and options.storage is None:
            raise StorageError(
                "the cluster has several nodes, and the run directory is on this one alone: give "
                "--storage with a directory or URI that every node reaches"
            )
        check_every_node(sweep.storage)
        sweep.info["status"] = "running"
        for attempt in sweep.info["attempts"]:
            if attempt["outcome"] == "running":  # it had no time to write down its end
                attempt["outcome"] = "killed"
        sweep.info["attempts"].append(
            {"started": provenance.now(), "ended": None, "outcome": "running"}
        )
        sweep.save()
        directory.begun = True
        if options.quiet:
            closing.say_banner(sweep, out)
        else:
            closing.greet(sweep, plan, out, [str(log), ray_logs])
        with show_progress(
            out, sweep.trials, options.epochs, plan.at_once, quiet=options.quiet
        ) as progress:
            tune_trials(sweep, plan, progress)


def _ask_for_nodes(sweep: Sweep, out: TextIO) -> None:
    """A cluster in a cloud may have none yet; each trial asks for what the options give it."""
    options, was = sweep.options, sweep.info.get("resources", {})

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=out, flush=True)

    ask_for_nodes(
        min(len(sweep.pending), options.max_concurrent or len(sweep.pending)),
        was.get("cpus_per_trial", options.cpus_per_trial) or 1,
        was.get("gpus_per_trial", options.gpus_per_trial) or 0.0,
        say,
        PATIENCE_SECONDS,
    )


def _plan(sweep: Sweep) -> resources.Plan:
    """Shares per trial: those the run was started with, which its bits depend on, or new ones."""
    options = sweep.options
    was = sweep.info.get("resources", {})
    nodes = resources.living_nodes()
    try:
        plan = resources.plan(
            nodes,
            len(sweep.trials),
            cpus_per_trial=was.get("cpus_per_trial", options.cpus_per_trial),
            gpus_per_trial=was.get("gpus_per_trial", options.gpus_per_trial),
            max_concurrent=options.max_concurrent,
        )
    except OptionError as error:
        if not was:
            raise
        raise ClusterError(
            f"each trial of this run had {was['cpus_per_trial']} CPUs and "
            f"{was['gpus_per_trial']:g} GPUs, which its results depend on, and no node here has "
            "them: resume it where they are"
        ) from error
    sweep.info["machine"] |= {
        "nodes": len(nodes),
        "gpus": sum(node.gpus for node in nodes),
        "cluster_cpus": sum(node.cpus for node in nodes),
    }
    sweep.info["resources"] = {
        "cpus_per_trial": plan.cpus_per_trial,
        "gpus_per_trial": plan.gpus_per_trial,
        "max_concurrent": plan.at_once,
    }
    return plan


@contextlib.contextmanager
def _scratch(run_id: str) -> Iterator[None]:
    """Clear away what trial processes leave on this machine when they are killed."""
    try:
        yield
    finally:
        shutil.rmtree(scratch_directory(run_id), ignore_errors=True)
