"""A data set's name in, arrays out; and how its training images are split and scaled.

Images are uint8 `[N, 784]` (28 rows of 28 pixels, 0 black to 255 white), labels int64 `[N]`. All
arrays handed out are read-only, as they are shared by everything that trains.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distributed_fmlp import download
from distributed_fmlp.download import Progress, UnreachableError
from distributed_fmlp.errors import DataError, OptionError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

NAMES = ("auto", "fashion-mnist", "digits")
SIDE = 28
PIXELS = SIDE * SIDE
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 1797

VARIABLE = "FMLP_DATA_DIR"

_HISTOGRAM_CHUNK = 1 << 20


class VariableError(DataError):
    """`FMLP_DATA_DIR` names no directory that holds FashionMNIST."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}: {advice}")
        self.what, self.advice = what, advice


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels, and what identifies them."""

    name: str  # fashion-mnist or digits
    train_images: Images  # uint8 [N, 784]
    train_labels: Labels  # int64 [N]
    test_images: Images  # uint8 [M, 784]
    test_labels: Labels  # int64 [M]
    class_names: tuple[str, ...]  # by label
    sha256: str  # of the arrays and class names; see `arrays_sha256`
    substituted: bool = False  # True when `auto` took digits because FashionMNIST was out of reach
    location: str | None = None  # the directory read, None for data that comes with a library


@dataclass(frozen=True, eq=False)
class Split:
    """Which training images are trained on and which validate: both sorted, together all."""

    train_indices: Indices  # int64
    val_indices: Indices  # int64
    seed: int
    fraction: float
    sha256: str  # of the validation indices as little-endian int64


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation (of the population) of pixels on the scale 0 to 1."""

    mean: float
    std: float


def load_dataset(
    name: str = "auto",
    data_dir: Path | None = None,
    *,
    on_progress: Progress | None = None,
    may_download: bool = True,
) -> Dataset:
    """Load `fashion-mnist` or `digits`; with `auto` the first, or the second if it can't be had.

    FashionMNIST is looked for in `data_dir`, then `FMLP_DATA_DIR`, then a per-user cache, each a
    torchvision root, and is otherwise downloaded to `data_dir` or the cache. `on_progress` is given
    lines to show; without `may_download` what is not on disk can't be had. `auto` takes digits
    (`substituted` is then True) only when the files are neither on disk nor downloadable; a damaged
    file is an error.

    Raises `VariableError` when there is no `data_dir` and `FMLP_DATA_DIR` is set without holding
    the files, and `DataError` when the name is unknown, `data_dir` isn't a directory, a file is
    damaged or unreadable, the place to download to can't be written, or FashionMNIST can't be had.
    """
    progress = on_progress or _silent
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise DataError(
            f"the data directory {data_dir} doesn't exist or isn't a directory: create it to "
            "download into it, or leave --data-dir out"
        )
    if name == "digits":
        return _digits()
    try:
        return _fashion_mnist(data_dir, progress, may_download)
    except UnreachableError as error:
        if name == "auto":
            progress(f"{error}; taking digits instead")
            return replace(_digits(), substituted=True)
        raise DataError(
            f"FashionMNIST is not on disk and {error}: name a directory that holds it with "
            "--data-dir or FMLP_DATA_DIR, or use --dataset digits"
        ) from error


def stratified_split(labels: npt.ArrayLike, fraction: float, seed: int = 0) -> Split:
    """Set aside `round(fraction * N)` of N images for validation, each class in proportion.

    A class's share is rounded down; the images still wanted come one each from the classes with the
    largest remainders (the lower label first). Class by class in ascending order, a permutation
    drawn from NumPy's `RandomState(seed)`, whose stream never changes, says which images go.

    Raises `OptionError` when `fraction` is not between 0 and 1, `seed` doesn't fit 32 bits, or a
    class would have no image on one side.
    """
    known = np.asarray(labels, dtype=np.int64)
    if not 0 < fraction < 1:
        raise OptionError(f"the validation fraction is {fraction}: give one between 0 and 1")
    if not 0 <= seed < 2**32:
        raise OptionError(f"the split's seed is {seed}: give one from 0 to {2**32 - 1}")
    if not known.size:
        raise OptionError("there are no images to split: choose another data set")
    classes, counts = np.unique(known, return_counts=True)
    quotas = _quotas([int(count) for count in counts], round(fraction * known.size))
    for label, count, quota in zip(classes, counts, quotas, strict=True):
        if not 0 < quota < count:
            side = "validation" if quota == 0 else "training"
            raise OptionError(
                f"the validation fraction {fraction:g} leaves class {label} ({count} images) with "
                f"no {side} image: give a {'larger' if quota == 0 else 'smaller'} one"
            )

    random = np.random.RandomState(seed)
    chosen = np.zeros(known.size, dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        chosen[random.permutation(np.flatnonzero(known == label))[:quota]] = True
    val_indices = _frozen(np.flatnonzero(chosen).astype(np.int64))
    return Split(
        train_indices=_frozen(np.flatnonzero(~chosen).astype(np.int64)),
        val_indices=val_indices,
        seed=seed,
        fraction=fraction,
        sha256=hashlib.sha256(val_indices.astype("<i8").tobytes()).hexdigest(),
    )


def measure_scaling(images: Images) -> Scaling:
    """Mean and standard deviation of all pixels of `images` (uint8, any shape), over 255.

    Sums are whole numbers taken from a histogram, so the result has no rounding but the last one
    and is the same on every machine. Raises `DataError` when there is no pixel or all are alike.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"images are uint8, not {images.dtype}")
    flat = images.reshape(-1)
    histogram = np.zeros(256, dtype=np.int64)
    # bincount widens what it is given to 8 bytes a pixel, so it is given a little at a time.
    for start in range(0, flat.size, _HISTOGRAM_CHUNK):
        histogram += np.bincount(flat[start : start + _HISTOGRAM_CHUNK], minlength=256)
    count, total, squares = flat.size, 0, 0
    for value, number in enumerate(histogram.tolist()):
        total += value * number
        squares += value * value * number
    spread = count * squares - total * total  # count² times the variance
    if spread == 0:
        raise DataError("the training images are all of one grey: choose another data set")
    return Scaling(mean=total / (255 * count), std=math.sqrt(spread / (255 * 255 * count * count)))


def arrays_sha256(
    train_images: Images,
    train_labels: Labels,
    test_images: Images,
    test_labels: Labels,
    class_names: tuple[str, ...],
) -> str:
    """SHA-256 that identifies a data set whatever file it came from.

    It runs over the four arrays in the order of the arguments, each as a line `<dtype> <shape>`
    ended by LF (`|u1` or `<i8`, little-endian; sizes joined by `x`) and then its bytes in row-major
    order; last, the class names as one JSON list in UTF-8.
    """
    digest = hashlib.sha256()
    for array in (train_images, train_labels, test_images, test_labels):
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{plain.dtype.str} {'x'.join(map(str, plain.shape))}\n".encode())
        digest.update(plain.data)
    digest.update(json.dumps(list(class_names), ensure_ascii=False).encode())
    return digest.hexdigest()


def _fashion_mnist(data_dir: Path | None, progress: Progress, may_download: bool) -> Dataset:
    import platformdirs

    cache = platformdirs.user_cache_path("distributed_fmlp", appauthor=False)
    variable = os.environ.get(VARIABLE) or None
    named = None if variable is None else Path(os.path.expanduser(variable)).absolute()
    if named is not None and data_dir is None:
        found = download.find([named])
        if found is None:
            raise _wrong_variable(variable, named)
    else:
        given = None if data_dir is None else data_dir.expanduser().absolute()
        roots = [root for root in (given, named, cache.absolute()) if root is not None]
        found = download.find(roots)
        if found is None and not may_download:
            raise UnreachableError("may not be downloaded now")
        if found is None:
            target = given or roots[-1]
            download.download(target, progress)
            found = download.find([target])
        if found is None:
            raise DataError(f"FashionMNIST's files vanished from {roots[0]}: run again")
    root, arrays = found
    return _dataset(
        "fashion-mnist",
        arrays["train_images"].reshape(-1, PIXELS),
        arrays["train_labels"].astype(np.int64),
        arrays["test_images"].reshape(-1, PIXELS),
        arrays["test_labels"].astype(np.int64),
        download.CLASS_NAMES,
        str(root),
    )


def _wrong_variable(given: str | None, directory: Path) -> VariableError:
    what = f"where {download.FOLDER} doesn't hold all four files of FashionMNIST"
    if not directory.is_dir():
        what = "which doesn't exist or isn't a directory"
    return VariableError(
        f"{VARIABLE} is {given}, {what}",
        f"let it name the directory that holds {download.FOLDER}, or unset it",
    )


def _digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits at 28x28, a fifth of each class as the test set."""
    source, labels = _digits_of_scikit_learn()
    images = _enlarge(source)
    split = stratified_split(labels, DIGITS_TEST_FRACTION, DIGITS_TEST_SEED)
    return _dataset(
        "digits",
        images[split.train_indices],
        labels[split.train_indices],
        images[split.val_indices],
        labels[split.val_indices],
        tuple(str(digit) for digit in range(10)),
        None,
    )


def _digits_of_scikit_learn() -> tuple[npt.NDArray[np.int64], Labels]:
    """What `sklearn.datasets.load_digits` gives, images `[1797, 8, 8]` of 0 to 16 and labels.

    Read from scikit-learn's own file: importing it takes longer than all else before training.
    """
    package = importlib.util.find_spec("sklearn")
    for directory in (package and package.submodule_search_locations) or ():
        file = Path(directory) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
            return rows[:, :-1].reshape(-1, 8, 8), np.ascontiguousarray(rows[:, -1])
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    source = load_digits()
    return source.images.astype(np.int64), source.target.astype(np.int64)


def _enlarge(images: npt.NDArray[np.int64]) -> Images:
    """int64 `[N, 8, 8]` of 0 to 16 brought to uint8 `[N, 784]`, bilinear, pixel centres aligned.

    Output pixel i lies at source position (i + 1/2) * 8/28 - 1/2 = (4i - 5) / 14, so every weight
    is a whole number of fourteenths and the arithmetic exact: the same bytes everywhere.
    """
    weights = np.zeros((SIDE, 8), dtype=np.int64)
    for row in range(SIDE):
        lower, part = divmod(4 * row - 5, 14)
        weights[row, max(lower, 0)] += 14 - part  # beyond the border the edge pixel is repeated
        weights[row, min(lower + 1, 7)] += part
    sums = weights @ images @ weights.T
    whole = 16 * 14 * 14
    pixels = (2 * 255 * sums + whole) // (2 * whole)
    return pixels.astype(np.uint8).reshape(-1, PIXELS)


def _dataset(
    name: str,
    train_images: Images,
    train_labels: Labels,
    test_images: Images,
    test_labels: Labels,
    class_names: tuple[str, ...],
    location: str | None,
) -> Dataset:
    for array in (train_images, train_labels, test_images, test_labels):
        array.setflags(write=False)
    sha256 = arrays_sha256(train_images, train_labels, test_images, test_labels, class_names)
    return Dataset(
        name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        class_names,
        sha256,
        location=location,
    )


def _quotas(counts: list[int], total: int) -> list[int]:
    """`total` shared among classes in proportion to `counts`, by largest remainder."""
    everything = sum(counts)
    shares = [divmod(total * count, everything) for count in counts]
    quotas = [share for share, _ in shares]
    by_remainder = sorted(range(len(counts)), key=lambda index: (-shares[index][1], index))
    for index in by_remainder[: total - sum(quotas)]:
        quotas[index] += 1
    return quotas


def _frozen(array: Indices) -> Indices:
    array.setflags(write=False)
    return array


def _silent(line: str) -> None:
    del line
