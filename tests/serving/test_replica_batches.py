"""One batch over several requests: each gets its own answer, and no other one's trouble."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distributed_fmlp.serving.batching import Work, compute_batch
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.metrics import Metrics
from distributed_fmlp.serving.model import InferenceModel, open_model
from distributed_fmlp.serving.replica import Replica
from distributed_fmlp.serving.settings import ServiceArguments
from tests.serving.conftest import Bundles

LATER = 1e12


class Watched:
    """A model that keeps what it was called with, and fails when told to."""

    def __init__(self, model: InferenceModel, failure: Exception | None = None) -> None:
        self.calls: list[tuple[int, str]] = []
        self._model = model
        self._failure = failure

    def __call__(self, images: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        self.calls.append((len(images), images.dtype.name))
        if self._failure:
            raise self._failure
        return self._model(images)


@pytest.fixture(scope="module")
def models(bundles: Bundles) -> tuple[InferenceModel, InferenceModel]:
    return open_model(str(bundles.first)), open_model(str(bundles.second))


class Bare(Replica):
    """A replica that was never started."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


def bare_replica(**settings: Any) -> Any:
    replica: Any = object.__new__(Bare)
    replica._settings = ServiceArguments(**settings)
    return replica


def images(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 784), dtype=np.uint8)


def work(model: Any, pixels: Any, deadline: float = LATER) -> Work:
    return Work(model, pixels, deadline)


def assert_answers(part: Any, model: InferenceModel, pixels: Any) -> None:
    probabilities, labels = part
    expected, expected_labels = model(pixels)
    assert np.allclose(probabilities, expected, atol=1e-6)
    assert np.array_equal(labels, expected_labels)


def test_requests_are_computed_together_and_answered_apart_and_in_order(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    watched = Watched(models[0])
    asked = [images(count, count) for count in (1, 3, 2, 5)]
    parts = compute_batch([work(watched, each) for each in asked])
    assert watched.calls == [(11, "uint8")]
    for part, each in zip(parts, asked, strict=True):
        assert_answers(part, models[0], each)


def test_bytes_and_floats_and_two_models_are_never_computed_together(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    old, new = Watched(models[0]), Watched(models[1])
    pixels = images(2, 0)
    floats = pixels.astype(np.float32) / 255
    works = [work(old, pixels), work(new, pixels), work(old, floats), work(new, images(1, 9))]
    parts = compute_batch(works)
    assert sorted(old.calls) == [(2, "float32"), (2, "uint8")]
    assert new.calls == [(3, "uint8")]
    assert_answers(parts[0], models[0], pixels)
    assert_answers(parts[1], models[1], pixels)
    assert_answers(parts[2], models[0], floats)
    assert_answers(parts[3], models[1], images(1, 9))


def test_what_is_past_its_deadline_or_abandoned_is_not_computed(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    watched = Watched(models[0])
    works = [work(watched, images(1, n)) for n in range(4)]
    works[1].deadline = time.monotonic() - 0.001
    works[2].abandoned = True
    parts = compute_batch(works)
    assert watched.calls == [(2, "uint8")]
    assert_answers(parts[0], models[0], images(1, 0))
    assert_answers(parts[3], models[0], images(1, 3))
    for part in parts[1:3]:
        assert isinstance(part, RequestError) and part.status == 503


def test_a_batch_of_which_nothing_is_left_computes_nothing(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    watched = Watched(models[0])
    assert isinstance(compute_batch([work(watched, images(1, 0), deadline=0.0)])[0], RequestError)
    assert compute_batch([]) == []
    assert watched.calls == []


def test_a_part_of_a_big_request_that_waits_too_long_makes_it_a_503_of_its_own(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    replica = bare_replica(max_batch_size=2, retry_after_s=7)
    seen: list[int] = []

    async def gather(work: Work) -> Any:
        seen.append(len(work.images))
        return RequestError(503, "the request waited too long") if len(seen) == 2 else ([], [])

    replica._gather = gather
    with pytest.raises(RequestError) as caught:
        asyncio.run(replica._compute_parts(models[0], images(5, 0), LATER))
    assert caught.value.status == 503 and caught.value.headers["Retry-After"] == "7"
    assert seen[:2] == [2, 2]


def test_a_failure_stays_with_what_it_was_computed_with(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    failing = Watched(models[0], ValueError("out of memory"))
    parts = compute_batch([work(failing, images(1, 0)), work(models[1], images(1, 0))])
    assert isinstance(parts[0], ValueError)
    assert_answers(parts[1], models[1], images(1, 0))


def test_images_held_are_bounded_too_but_one_request_alone_is_never_too_much(
    models: tuple[InferenceModel, InferenceModel],
) -> None:
    replica = bare_replica(max_batch_size=4, max_queued_images=8)
    replica._follower, replica._metrics = (
        SimpleNamespace(model=models[0], may_answer=True),
        Metrics(),
    )
    replica._queued = replica._queued_images = 0

    async def ask() -> None:
        released = asyncio.Event()

        async def gather(work: Work) -> Any:
            await released.wait()
            return models[0](work.images)

        replica._gather = gather
        held = [asyncio.create_task(replica.predict(images(count, 0), LATER)) for count in (6, 2)]
        await asyncio.sleep(0)
        assert (replica._queued, replica._queued_images) == (2, 8)
        with pytest.raises(RequestError) as caught:
            await replica.predict(images(1, 0), LATER)
        assert caught.value.status == 503 and "Retry-After" in caught.value.headers
        with pytest.raises(RequestError, match="over capacity"):
            replica.check_capacity()
        released.set()
        assert [len(answer.labels) for answer in await asyncio.gather(*held)] == [6, 2]
        replica.check_capacity()
        assert len((await replica.predict(images(12, 0), LATER)).labels) == 12
        assert (replica._queued, replica._queued_images) == (0, 0)

    asyncio.run(ask())
