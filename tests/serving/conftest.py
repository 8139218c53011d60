"""Bundles of Architecture 2 that the tests of the model and of the running service share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distributed_fmlp.bundle import load_bundle
from distributed_fmlp.serving.model import InferenceModel
from tests.serving.running_service import make_bundle


@dataclass(frozen=True)
class Bundles:
    """Two models trained on digits, as good as each other, and one that is blind."""

    first: Path
    second: Path
    blind: Path

    @staticmethod
    def version(bundle: Path) -> str:
        return load_bundle(bundle).version

    def probabilities(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Each model's own probabilities of some images, by version."""
        models = [InferenceModel(load_bundle(path)) for path in (self.first, self.second)]
        return {model.served.version: model(images)[0] for model in models}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    base = tmp_path_factory.mktemp("bundles")
    return Bundles(
        make_bundle(base / "first", seed=1, steps=30),
        make_bundle(base / "second", seed=2, steps=30),
        make_bundle(base / "blind", seed=3, steps=0),
    )
