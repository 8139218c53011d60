"""A batch over several requests: computed together, answered one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distributed_fmlp.serving.engine import Images
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.model import InferenceModel


@dataclass(eq=False)
class Work:
    """Some images of one request, for the model that the request began with."""

    model: InferenceModel
    images: Images
    deadline: float  # on time.monotonic's clock
    abandoned: bool = False  # nobody waits for it any more


Part = tuple[Any, Any] | Exception  # probabilities and labels, or why there are none


def compute_batch(works: Sequence[Work]) -> list[Part]:
    """Answer a batch, computing the works of one model and dtype together.

    A work that is abandoned or past its deadline is not computed; a failure stays with the works
    that it was computed with.
    """
    parts: list[Part | None] = [None] * len(works)
    groups: dict[tuple[int, str], list[int]] = {}
    now = time.monotonic()
    for index, work in enumerate(works):
        if work.abandoned:
            parts[index] = RequestError(503, "the client left")
        elif work.deadline < now:
            parts[index] = RequestError(503, "the request waited too long")
        else:
            groups.setdefault((id(work.model), work.images.dtype.char), []).append(index)
    for indices in groups.values():
        images = [works[index].images for index in indices]
        together: Any = images[0] if len(images) == 1 else np.concatenate(images)
        try:
            probabilities, labels = works[indices[0]].model(together)
        except Exception as error:
            for index in indices:
                parts[index] = error
            continue
        start = 0
        for index, own in zip(indices, images, strict=True):
            stop = start + len(own)
            parts[index] = (probabilities[start:stop], labels[start:stop])
            start = stop
    return [part for part in parts if part is not None]
