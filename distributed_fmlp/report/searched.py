"""What a search over several hyperparameters came to, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed_fmlp.records import TrialRecord
from distributed_fmlp.run_directory import Run


def hyperparameter_words(trial: TrialRecord) -> str:
    """What the search gave a trial beside its learning rate: dropout 0.21, or nothing."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in trial.hyperparameters.items()
    )


def hyperparameters_of(run: Run, learning_rate: float) -> str:
    """The same for the trial of a learning rate: in a search each trial has one of its own."""
    trials = [trial for trial in run.trials if trial.learning_rate == learning_rate]
    return hyperparameter_words(trials[0]) if trials else ""


def is_search(run: Run) -> bool:
    """Whether the trials were drawn by a search rather than listed in a grid."""
    return bool(_recorded(run))


def search_words(run: Run) -> str:
    """What was searched: lr 0.0003 to 0.005, dropout 0.1 to 0.5; nothing for a grid."""
    ranges = _recorded(run).get("ranges")
    if not isinstance(ranges, Mapping):
        return ""
    parts = []
    for name, bounds in ranges.items():
        if isinstance(bounds, list) and len(bounds) == 2:
            parts.append(f"{str(name).replace('_', ' ')} {bounds[0]} to {bounds[1]}")
    return ", ".join(parts)


def search_sentence(run: Run) -> str | None:
    """What became of a search's trials, and how its tables are to be read; None for a grid."""
    if not is_search(run):
        return None
    counts = {
        words: sum(trial.status == status for trial in run.trials)
        for status, words in (("finished", "finished"), ("stopped", "stopped early"))
    }
    became = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    sentence = f"A random search of {len(run.trials)} trials ({search_words(run)})"
    sentence += f": {became}." if became else "."
    others = sorted({name for trial in run.trials for name in trial.hyperparameters})
    if others:
        named = " and ".join(name.replace("_", " ") for name in others)
        sentence += f" Trials are named by their learning rate, but differ in {named} too."
    if counts["stopped early"]:
        sentence += (
            " A trial is stopped early when others have been more accurate on validation by the "
            "same epoch; it is not tested and can't be chosen."
        )
    return sentence


def _recorded(run: Run) -> Mapping[str, Any]:
    search = run.info.get("search")
    return search if isinstance(search, Mapping) else {}
