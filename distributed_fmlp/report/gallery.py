"""Test images for the page, from data that is on this machine already; nothing is downloaded."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distributed_fmlp.data import SIDE, load_dataset
from distributed_fmlp.download import UnreachableError
from distributed_fmlp.errors import DataError
from distributed_fmlp.run_directory import Run


@dataclass(frozen=True)
class Gallery:
    """Pictures as data URIs in the order asked for, or why there are none."""

    pictures: Sequence[str]
    missing: str | None


def load_gallery(run: Run, positions: Sequence[int], data_dir: Path | None) -> Gallery:
    """The test images at `positions`, when the very data of the run is on disk.

    Looked for where the sweep looks. Raises `DataError` when `data_dir` is no directory or a file
    in it is damaged: the user named it.
    """
    wanted = run.info["dataset"]
    left_out = "The images are left out: "
    try:
        dataset = load_dataset(wanted["name"], data_dir, may_download=False)
    except DataError as error:
        if isinstance(error.__cause__, UnreachableError):
            return Gallery([], f"{left_out}{wanted['name']} is not on this machine.")
        if data_dir is not None:
            raise
        return Gallery([], f"{left_out}{error}.")
    if dataset.sha256 != wanted["sha256"]:
        return Gallery([], f"{left_out}the {wanted['name']} on this machine is other data.")
    if any(position >= len(dataset.test_images) for position in positions):
        return Gallery([], f"{left_out}the predictions are of other images.")
    return Gallery([picture(dataset.test_images[position]) for position in positions], None)


def picture(pixels: npt.NDArray[np.uint8]) -> str:
    """One image, uint8 `[784]`, as the data URI of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(SIDE, SIDE)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
