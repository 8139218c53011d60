"""The same service asked by an unmodified Triton client: `pip install 'tritonclient[http]'`."""

import sys

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput


def main(words: list[str]) -> int:
    images = np.random.default_rng(0).integers(0, 256, (8, 784), dtype=np.uint8)
    tensor = InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    with InferenceServerClient(words[0] if words else "127.0.0.1:8000") as client:
        answer = client.infer("fmlp", [tensor])
    for name, row in zip(
        answer.as_numpy("class_name"), answer.as_numpy("probabilities"), strict=True
    ):
        print(f"{name.decode()} ({100 * row.max():.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
