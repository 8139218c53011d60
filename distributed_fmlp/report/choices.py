"""What the published tables leave open, and what was chosen here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed_fmlp.recipe import Recipe
from distributed_fmlp.report.tables import Column, Table
from distributed_fmlp.run_directory import Run


def choices_table(run: Run) -> Table:
    """One row for each question that the published tables don't answer."""
    info = run.info
    data, split = info["dataset"], _mapping(info.get("split"))
    scaling, options = _mapping(info.get("scaling")), info["options"]
    seeds = sorted({trial.seed for trial in run.trials})
    shown = ", ".join(map(str, seeds[:8])) + (", …" if len(seeds) > 8 else "")
    rows = [
        [
            "Which images validate?",
            "Not said.",
            f"{_count(data.get('n_validation'))} of the training images, each class in proportion, "
            f"set aside with a seed of their own ({split.get('seed', '?')}) and the same for every "
            f"trial; {_count(data.get('n_train'))} are trained on.",
        ],
        [
            "How are pixels scaled?",
            "Not said.",
            "Mean and standard deviation of the images trained on alone, on the scale 0 to 1: "
            f"{_number(scaling.get('mean'))} and {_number(scaling.get('std'))}.",
        ],
        [
            "Which F1?",
            "Averaging not said.",
            "Macro: the mean of the classes' F1 scores, each class with the same weight.",
        ],
        [
            "Which epoch was tested?",
            "The last or the best: not said.",
            "The epoch with the highest validation accuracy (ties: lower loss, then the earlier "
            "one); the last epoch's test figures are recorded beside it.",
        ],
        [
            "How was the best learning rate chosen?",
            "Not said; the one named the best has the highest test accuracy.",
            "By validation accuracy. The test set is looked at once per trial, after training, and "
            "has no say.",
        ],
        [
            "How many runs, which seeds?",
            "One run for each learning rate; seed not said.",
            f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''} ({shown}). A seed gives every "
            "learning rate the same initial weights and the same order of batches, so that "
            "differences are paired.",
        ],
        [
            "What are the training figures of?",
            "Not said.",
            "The training passes themselves, with dropout on and weights that move from batch to "
            "batch; so training accuracy can lie below validation accuracy.",
        ],
        [
            "How exact is the arithmetic?",
            "Not said.",
            f"{options.get('precision', 'fp32')}; Adam with PyTorch's defaults but the learning "
            "rate; the last, partial batch of an epoch is kept.",
        ],
        *_additions(options),
    ]
    return Table(
        "What the published tables don't say",
        [Column("question"), Column("published"), Column("here")],
        rows,
    )


def _additions(options: Mapping[str, Any]) -> list[list[str]]:
    """What was added to the published recipe, where anything was."""
    additions = Recipe.from_json(options).additions
    if not additions:
        return []
    return [["What is not of the published recipe?", "-", f"{'; '.join(additions)}."]]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "?"
