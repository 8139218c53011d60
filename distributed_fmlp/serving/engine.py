"""What the HTTP side asks of the model side; the service and the tests each bring their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class ServedModel:
    """Which model answers: its version (short SHA-256 of its weights) and where it came from."""

    version: str
    sha256: str
    class_names: tuple[str, ...]
    learning_rate: float
    seed: int
    epoch: int
    dataset: str
    dataset_sha256: str
    source_commit: str | None
    val_accuracy: float
    test_accuracy: float
    substituted: bool = False  # trained on digits because FashionMNIST couldn't be had
    run: str | None = None
    trial_id: str | None = None

    def facts(self) -> dict[str, Any]:
        """What is told to who asks: plain JSON values."""
        return {
            "name": "fmlp",
            "version": self.version,
            "weights_sha256": self.sha256,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "epoch": self.epoch,
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256,
            "dataset_substituted": self.substituted,
            "source_commit": self.source_commit,
            "val_accuracy": self.val_accuracy,
            "test_accuracy": self.test_accuracy,
            "run": self.run,
            "trial_id": self.trial_id,
        }


@dataclass(frozen=True)
class Answer:
    """What one model said of one request's images; never a mixture of two models."""

    model: ServedModel
    probabilities: NDArray[np.float32]  # [N, 10]
    labels: NDArray[np.int64]  # [N]


@dataclass(frozen=True)
class PromotionRequest:
    """A bundle to serve from now on."""

    bundle: str  # a directory, URI or run that every replica reaches
    allowed_accuracy_drop: float = 0.0  # of the test accuracy, as a fraction
    data_dir: str | None = None  # as the service sees it; None: where it looks by itself


@dataclass(frozen=True)
class Comparison:
    """Test accuracies (0 to 1) of the model before and the one promoted, or why there are none."""

    before: float | None = None
    promoted: float | None = None
    reason: str | None = None  # why nothing was compared


@dataclass(frozen=True)
class ServiceStatus:
    """What runs: the model, the one a rollback would bring back, and each replica's view."""

    model: ServedModel
    previous: str | None  # version
    ready: bool
    replicas: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Comparison | None = None  # of the promotion just made


class Engine(Protocol):
    """The model behind the HTTP side."""

    @property
    def model(self) -> ServedModel | None:
        """The model that answers now; `None` until one is verified, and while it may be stale."""

    def check_capacity(self) -> None:
        """Raise what `predict` would, were one more image asked of it. Costs next to nothing."""

    async def predict(self, images: Images, deadline: float) -> Answer:
        """Probabilities for uint8 `[N, 784]` (0 to 255) or float32 `[N, 784]` (0 to 1).

        Raises `RequestError` with 503 and `Retry-After` over capacity or past the deadline, which
        is on time.monotonic's clock. May be cancelled; images of a cancelled request that have not
        been computed yet are dropped.
        """

    async def promote(self, request: PromotionRequest) -> ServiceStatus:
        """Check a bundle and serve it, on every replica or on none.

        Raises `RequestError`: 422 when the bundle is refused, saying why; 409 while another
        promotion runs, or where one has ended while this bundle was examined; 503 when not every
        replica could take it (the old model goes on). May be cancelled: what has not been ordered
        by then isn't any more.
        """

    async def rollback(self) -> ServiceStatus:
        """Serve the model before the last promotion again. `RequestError` 409 if there is none."""

    async def status(self) -> ServiceStatus: ...

    async def metrics(self) -> bytes:
        """All replicas' metrics in Prometheus' text format."""
