"""A bundle made ready to answer: arrays in, probabilities out, no server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_linear_bn_eval

from distributed_fmlp.bundle import PROBE_TOLERANCE, Bundle, load_bundle, probe_images, probe_logits
from distributed_fmlp.errors import BundleError
from distributed_fmlp.model import FMLP, scale_pixels
from distributed_fmlp.object_store import filesystem_of
from distributed_fmlp.serving.engine import Images, ServedModel


class InferenceModel:
    """The network of a verified bundle, batch norm folded into the Linear layers.

    Raises `BundleError` at construction when the folded network doesn't give the unfolded one's
    logits on the probe.
    """

    def __init__(self, bundle: Bundle, device: torch.device | None = None) -> None:
        self.bundle = bundle
        self.device = device or torch.device("cpu")
        self.served = served_model(bundle)
        self._scaling = bundle.scaling
        model = bundle.build()
        self._layers = [
            (layer.weight.detach().to(self.device), layer.bias.detach().to(self.device))
            for layer in folded_layers(model)
        ]
        expected = probe_logits(model, self._scaling)
        pixels = torch.from_numpy(probe_images(model.architecture.input))
        with torch.inference_mode():
            actual = self._logits(pixels.to(self.device)).cpu().numpy()
        worst = float(np.abs(actual - expected).max())
        if not worst <= PROBE_TOLERANCE:
            raise BundleError(
                f"{bundle.called} is refused: with batch norm folded its logits differ by "
                f"{worst:.2g} on the probe; serve it on another device"
            )

    @torch.inference_mode()
    def __call__(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Probabilities float32 `[N, 10]` and labels int64 `[N]`.

        `images` are uint8 `[N, 784]` (0 to 255) or float32 `[N, 784]` (0 to 1).
        """
        pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        if pixels.dtype == torch.float32:
            pixels = pixels * 255.0
        probabilities = self._logits(pixels.to(self.device)).softmax(dim=1)
        labels = probabilities.argmax(dim=1)
        return probabilities.cpu().numpy(), labels.cpu().numpy()

    def _logits(self, pixels: Tensor) -> Tensor:
        activations = scale_pixels(pixels, self._scaling)
        *hidden, last = self._layers
        for weight, bias in hidden:
            activations = functional.linear(activations, weight, bias).relu_()
        return functional.linear(activations, *last)


def folded_layers(model: FMLP) -> list[nn.Linear]:
    """The Linear layers of a model in evaluation mode, each with its batch norm folded in."""
    folded = []
    for block in model.hidden:
        linear, norm = block[0], block[1]  # type: ignore[index]
        folded.append(fuse_linear_bn_eval(linear, norm))
    return [*folded, model.output]


def served_model(bundle: Bundle) -> ServedModel:
    """What a bundle's manifest says to those who ask which model answered.

    Raises `BundleError` when the manifest lacks any of it.
    """
    manifest: Mapping[str, Any] = bundle.manifest
    try:
        return ServedModel(
            version=bundle.version,
            sha256=bundle.sha256,
            class_names=bundle.class_names,
            learning_rate=float(manifest["hyperparameters"]["learning_rate"]),
            seed=int(manifest["seed"]),
            epoch=int(manifest["epoch"]),
            dataset=str(manifest["dataset"]["name"]),
            dataset_sha256=str(manifest["dataset"]["sha256"]),
            source_commit=manifest["source"]["commit"],
            val_accuracy=float(manifest["metrics"]["val_accuracy"]),
            test_accuracy=float(manifest["metrics"]["test_accuracy"]),
            substituted=bool(manifest["dataset"].get("substituted", False)),
            run=manifest.get("run"),
            trial_id=manifest.get("trial_id"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle.called} is refused: its manifest lacks {error}; make it again from its run"
        ) from error


def public_address(where: str) -> str:
    """A directory or URI without what may be secret in it: a URI's user and query."""
    if "://" not in where:
        return where
    scheme, _, rest = where.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def open_model(
    where: str, device: torch.device | None = None, called: str | None = None
) -> InferenceModel:
    """Load and verify the bundle at a directory or URI. Raises `BundleError`.

    `called` is how errors name it, in place of its public address.
    """
    called = called or f"bundle {public_address(where)}"
    if "://" not in where:
        return InferenceModel(load_bundle(Path(where), called), device)
    import pyarrow.fs

    with tempfile.TemporaryDirectory(prefix="fmlp-bundle-") as directory:
        try:
            filesystem, path = filesystem_of(where)
            pyarrow.fs.copy_files(path, directory, source_filesystem=filesystem)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{called} can't be read ({type(error).__name__}); check the address and its "
                "permissions"
            ) from error
        return InferenceModel(load_bundle(Path(directory), called), device)
