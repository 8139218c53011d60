"""What is deployed: a model's weights and the manifest that says where they came from.

A bundle is a directory with `weights.safetensors` and `manifest.json` (described in
docs/run-directory.md). It is written whole or not at all, and verified when loaded: the weights
against their SHA-256, and the rebuilt model against logits that the trained one gave for inputs
made by a fixed rule.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import Scaling
from distributed_fmlp.errors import BundleError
from distributed_fmlp.model import FMLP, scale_pixels

FORMAT_VERSION = 1
MODEL_NAME = "fmlp"
WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FILE = "manifest.json"
PROBE_TOLERANCE = 1e-4
_PROBE_COUNT = 16
_PROBE_RULE = "pixel[i, j] = (31 * i * i + 17 * j + 7 * i * j + j * j // 29) mod 256"
_MAX_WEIGHTS_BYTES = 1 << 30
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `weights` by parameter name, and the manifest as parsed."""

    path: Path
    manifest: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    called: str = "the bundle"  # how errors name it

    @property
    def architecture(self) -> Architecture:
        return Architecture.from_json(self.manifest["architecture"])

    @property
    def scaling(self) -> Scaling:
        scaling = self.manifest["scaling"]
        return Scaling(mean=float(scaling["mean"]), std=float(scaling["std"]))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.manifest["class_names"])

    @property
    def sha256(self) -> str:
        return str(self.manifest["weights"]["sha256"])

    @property
    def version(self) -> str:
        """The name of these weights in public: the first 12 digits of their SHA-256."""
        return self.sha256[:12]

    def build(self) -> FMLP:
        """The model on the CPU, in evaluation mode."""
        return _build(self.architecture, self.weights)


def weights_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of these weights; equal weights give equal bytes."""
    return safetensors.torch.save({name: value.contiguous() for name, value in weights.items()})


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of `weights_bytes`, in hexadecimal."""
    return hashlib.sha256(weights_bytes(weights)).hexdigest()


def probe_images(n_pixels: int = 784) -> NDArray[np.uint8]:
    """uint8 `[16, n_pixels]`: inputs that belong to no data set, the same everywhere."""
    i = np.arange(_PROBE_COUNT, dtype=np.int64)[:, None]
    j = np.arange(n_pixels, dtype=np.int64)[None, :]
    pixels: NDArray[np.int64] = (31 * i * i + 17 * j + 7 * i * j + j * j // 29) % 256
    return pixels.astype(np.uint8)


@torch.inference_mode()
def probe_logits(model: FMLP, scaling: Scaling) -> NDArray[np.float32]:
    """Logits float32 `[16, 10]` of a model in evaluation mode, on its own device."""
    device = next(model.parameters()).device
    images = torch.from_numpy(probe_images(model.architecture.input)).to(device)
    logits: Tensor = model(scale_pixels(images, scaling))
    return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)


def write_bundle(path: Path, weights: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> Bundle:
    """Write a bundle; `weights` and `probe` of the manifest are made here.

    `manifest` holds the other keys that docs/run-directory.md lists. A bundle that is already at
    `path` stays until the new one is whole.
    """
    content = weights_bytes(weights)
    architecture = Architecture.from_json(manifest["architecture"])
    model = _build(architecture, weights)
    full = {
        "format_version": FORMAT_VERSION,
        "name": MODEL_NAME,
        **manifest,
        "weights": {
            "file": WEIGHTS_FILE,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        },
        "probe": {
            "rule": _PROBE_RULE,
            "logits": probe_logits(model, Scaling(**manifest["scaling"])).tolist(),
        },
    }
    with _replaced_directory(path) as temporary:
        _write_synced(temporary / WEIGHTS_FILE, content)
        text = json.dumps(full, indent=2, allow_nan=False) + "\n"
        _write_synced(temporary / MANIFEST_FILE, text.encode())
    return load_bundle(path)


def load_bundle(path: Path, called: str | None = None) -> Bundle:
    """Read and verify a bundle; `called` is how errors name it, in place of its path.

    Raises `BundleError` when anything in it is missing, damaged or not what the manifest says.
    """
    called = called or f"bundle {path}"
    manifest = _read_manifest(path, called)
    file = path / WEIGHTS_FILE
    try:
        said_sha256, said_bytes = manifest["weights"]["sha256"], manifest["weights"]["bytes"]
        if file.stat().st_size != said_bytes or said_bytes > _MAX_WEIGHTS_BYTES:
            raise _damaged(
                called, f"{WEIGHTS_FILE} has {file.stat().st_size} bytes, not {said_bytes}"
            )
        content = file.read_bytes()
    except (KeyError, TypeError) as error:
        raise _damaged(called, f"{MANIFEST_FILE} doesn't describe its weights") from error
    except OSError as error:
        raise _damaged(called, f"{WEIGHTS_FILE} can't be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != said_sha256:
        raise _damaged(called, f"{WEIGHTS_FILE} doesn't have the SHA-256 that the manifest gives")
    try:
        weights = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _damaged(called, f"{WEIGHTS_FILE} is no safetensors file") from error
    bundle = Bundle(path, manifest, weights, called)
    _check_model(bundle)
    return bundle


def _check_model(bundle: Bundle) -> None:
    """The weights fit the architecture, and the model gives the recorded logits."""
    called, manifest = bundle.called, bundle.manifest
    try:
        architecture, scaling = bundle.architecture, bundle.scaling
        expected = np.array(manifest["probe"]["logits"], dtype=np.float32)
        names = manifest["class_names"]
        names_fit = (
            isinstance(names, list)
            and len(names) == architecture.output
            and all(isinstance(name, str) for name in names)
        )
        scaling_fits = np.isfinite(scaling.mean) and np.isfinite(scaling.std) and scaling.std > 0
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(
            called, f"{MANIFEST_FILE} lacks a part or has a wrong one ({error})"
        ) from error
    if not names_fit or not scaling_fits:
        raise _damaged(called, f"{MANIFEST_FILE}: class names or scaling don't fit the network")
    sizes = [architecture.input, *architecture.hidden, architecture.output]
    matrices = [value.shape for value in bundle.weights.values() if value.dim() == 2]
    # Compared before a model is built, so that a manifest can't ask for any amount of memory.
    if sorted(matrices) != sorted(zip(sizes[1:], sizes[:-1], strict=True)):
        raise _damaged(called, "the weights don't have the shapes of the manifest's architecture")
    try:
        if not all(bool(torch.isfinite(value).all()) for value in bundle.weights.values()):
            raise _damaged(called, "the weights contain numbers that aren't finite")
        model = bundle.build()
    except RuntimeError as error:
        raise _damaged(called, "the weights don't fit the manifest's architecture") from error
    actual = probe_logits(model, scaling)
    if expected.shape != actual.shape:
        raise _damaged(
            called, f"the probe has logits of shape {expected.shape}, not {actual.shape}"
        )
    worst = float(np.abs(actual - expected).max())
    if not worst <= PROBE_TOLERANCE:
        raise _damaged(
            called, f"the model's logits differ from the recorded ones by {worst:.2g} on the probe"
        )


def _read_manifest(path: Path, called: str) -> dict[str, Any]:
    file = path / MANIFEST_FILE
    try:
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _damaged(called, f"{MANIFEST_FILE} is over {_MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"{called} is refused: {MANIFEST_FILE} can't be read ({error.strerror}); "
            "name a bundle directory, or a run that has finished"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(called, f"{MANIFEST_FILE} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("name") != MODEL_NAME:
        raise _damaged(called, f"{MANIFEST_FILE} is not the manifest of a {MODEL_NAME} bundle")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{called} has format version {manifest.get('format_version')!r} and this program "
            f"reads {FORMAT_VERSION}: use the version of distributed_fmlp that wrote it"
        )
    return manifest


def _build(architecture: Architecture, weights: Mapping[str, Tensor]) -> FMLP:
    model = FMLP(architecture)
    model.load_state_dict(dict(weights))
    return model.eval()


def _damaged(called: str, what: str) -> BundleError:
    return BundleError(f"{called} is refused: {what}; make it again from its run")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _replaced_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that takes `path`'s place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / path.name)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
