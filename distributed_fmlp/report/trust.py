"""How far the chosen model's probabilities can be trusted, from its recorded predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distributed_fmlp.records import TrialRecord
from distributed_fmlp.report.calibration import (
    Confusion,
    ReliabilityBin,
    expected_calibration_error,
    most_confident_errors,
    most_confused,
    reliability,
)
from distributed_fmlp.run_directory import Predictions, Run, choose, load_predictions

GALLERY_SIZE = 24
CONFUSIONS = 8


@dataclass(frozen=True)
class WrongImage:
    """One test image that the chosen model gets wrong."""

    position: int  # in the test set
    true: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Trust:
    """The chosen trial's calibration and mistakes on the test images."""

    trial_id: str
    bins: Sequence[ReliabilityBin]
    calibration_error: float
    mean_confidence: float
    accuracy: float
    wrong: Sequence[WrongImage]  # the most confident first
    confusions: Sequence[Confusion]


def trust_of_chosen(run: Run) -> Trust | None:
    """None when no trial is chosen or it has no predictions; `RunError` when they are damaged."""
    chosen = choose(run.trials)
    predictions = load_predictions(run.path, chosen.trial_id) if chosen else None
    if chosen is None or predictions is None or not len(predictions.label):
        return None
    return _trust(chosen, predictions)


def _trust(trial: TrialRecord, predictions: Predictions) -> Trust:
    correct = predictions.predicted == predictions.label
    bins = reliability(correct, predictions.confidence)
    positions = most_confident_errors(
        predictions.label, predictions.predicted, predictions.confidence, GALLERY_SIZE
    )
    matrix = trial.test_best.confusion_matrix if trial.test_best else []
    return Trust(
        trial.trial_id,
        bins,
        expected_calibration_error(bins),
        float(predictions.confidence.mean(dtype="float64")),
        float(correct.mean()),
        [
            WrongImage(
                at,
                int(predictions.label[at]),
                int(predictions.predicted[at]),
                float(predictions.confidence[at]),
            )
            for at in positions
        ],
        most_confused(matrix, CONFUSIONS),
    )
