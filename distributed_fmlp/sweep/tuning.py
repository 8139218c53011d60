"""The call into Ray Tune: one attempt at the unfinished trials of a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from ray import tune

from distributed_fmlp.sweep.checkpoints import ATTEMPT, attempts
from distributed_fmlp.sweep.job import Sweep, is_settled
from distributed_fmlp.sweep.progress import Progress
from distributed_fmlp.sweep.recorder import Recorder
from distributed_fmlp.sweep.resources import Plan
from distributed_fmlp.sweep.searching import early_stopping
from distributed_fmlp.sweep.trainable import TrialTask, train_trial

logger = logging.getLogger(__name__)


def tune_trials(sweep: Sweep, plan: Plan, progress: Progress) -> None:
    """Train the pending trials to their end; `sweep.trials` says afterwards how each ended.

    Each attempt is a Tune experiment of its own, `attempt_<n>` in the storage, so that nothing in
    it depends on how the one before it died; the trials themselves find their checkpoints.
    """
    pending = [replace(trial, status="pending", reason=None) for trial in sweep.pending]
    scheduler = early_stopping(
        sweep.options, [trial for trial in sweep.trials if is_settled(trial)]
    )
    recorder = Recorder(
        sweep.path, pending, sweep.options.epochs, progress, stops_early=scheduler is not None
    )
    task = TrialTask(
        run_id=sweep.info["run_id"],
        configs={trial.trial_id: sweep.config(trial) for trial in pending},
        storage=sweep.storage,
        threads=plan.cpus_per_trial,
    )
    specs = [
        {"trial_id": trial.trial_id, "learning_rate": trial.learning_rate, "seed": trial.seed}
        for trial in pending
    ]
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(train_trial, task=task, data=sweep.trial_data),
            {"cpu": plan.cpus_per_trial, "gpu": plan.gpus_per_trial},
        ),
        param_space={"trial": tune.grid_search(specs)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=plan.at_once,
            scheduler=scheduler,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{ATTEMPT}{attempts(sweep.storage)}",
            storage_path=sweep.storage.root,
            storage_filesystem=None if sweep.storage.is_local else sweep.storage.filesystem,
            failure_config=tune.FailureConfig(max_failures=sweep.options.max_failures),
            # Trials delete their own older ones: for Tune to do it, the driver would wait for the
            # storage at every checkpoint of every trial, and end when that is away.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=None),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        # A full disk, say, can end Tune in many ways; whatever is checkpointed is kept.
        logger.exception("Tune failed")
        recorder.end_all(f"Tune failed, see logs/ray.log: {type(error).__name__}: {error}"[:300])
    finally:
        sweep.trials = [recorder.records.get(trial.trial_id, trial) for trial in sweep.trials]


def _trial_id(trial: Any) -> str:
    return str(trial.config["trial"]["trial_id"])
