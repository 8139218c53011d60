"""Whether a run's report shows images of the data set: kept with the run, in `report.json`."""

from __future__ import annotations

import json
from pathlib import Path

from distributed_fmlp.errors import RunError
from distributed_fmlp.run_directory import write_json

FILE = "report.json"


def save_shows_images(run_path: Path, images: bool) -> None:
    """Keep what a report was asked for, so that later ones do the same."""
    write_json(run_path / FILE, {"images": images})


def load_shows_images(run_path: Path) -> bool:
    """What the run's last report that was told was asked for; true when none was.

    Raises `RunError` when the file is damaged: images may not be meant to be shown.
    """
    path = run_path / FILE
    try:
        told = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, RecursionError):
        told = None
    images = told.get("images") if isinstance(told, dict) else None
    if not isinstance(images, bool):
        raise RunError(
            f"{path} is damaged, and says no more whether images are shown: give --images or "
            "--no-images"
        )
    return images
