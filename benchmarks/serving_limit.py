"""The limit: images a second that bare matrix products of the network's layers reach, one thread.

`python serving_limit.py BUNDLE` prints `{batch size: images/s}` as JSON.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from distributed_fmlp.bundle import load_bundle

BATCH_SIZES = (64, 256)
_SECONDS = 2.0


def images_per_second(sizes: list[tuple[int, int]], batch: int, seconds: float) -> float:
    """Images a second of products `[batch, a] x [a, b]` for each (a, b), one after the other.

    The median over the time given, after a tenth of it to get warm.
    """
    pairs = [(torch.rand(batch, a), torch.rand(a, b)) for a, b in sizes]
    outputs = [torch.empty(batch, b) for _, b in sizes]
    took: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < 1.1 * seconds:
        for (left, right), output in zip(pairs, outputs, strict=True):
            torch.mm(left, right, out=output)
        if now - began > 0.1 * seconds:
            took.append(time.perf_counter() - now)
    return batch / statistics.median(took)


def main() -> None:
    torch.set_num_threads(1)
    shape = load_bundle(Path(sys.argv[1])).architecture
    widths = (shape.input, *shape.hidden, shape.output)
    sizes = list(itertools.pairwise(widths))
    with torch.inference_mode():
        limits = {batch: images_per_second(sizes, batch, _SECONDS) for batch in BATCH_SIZES}
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
