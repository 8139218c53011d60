"""The sweep's command line: every option with its help, each value checked in one line."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from distributed_fmlp.errors import OptionError
from distributed_fmlp.recipe import SCHEDULES
from distributed_fmlp.search_space import DEFAULT_SPACE, SAMPLES, SEARCHED, parse_range

DATASETS = ("auto", "fashion-mnist", "digits")
MAX_NAME_BYTES = 100
RESERVED_NAMES = ("comparison.html", "README.md")  # files that stand beside the runs
SERVE_PORT = 8000


class OneLineParser(argparse.ArgumentParser):
    """Raises `OptionError`, one line, for a bad command line."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{' '.join(message.split())} (see {self.prog} --help)")


def _checked(
    kind: Callable[[str], Any], noun: str, holds: Callable[[Any], bool], want: str
) -> Callable[[str], Any]:
    """A converter for argparse that says what was wrong with a value and what is wanted."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun}; give {want}") from None
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} can't be used; give {want}")
        return value

    return convert


def number(holds: Callable[[float], bool], want: str) -> Callable[[str], Any]:
    """A converter for argparse to a finite number for which `holds` is true."""
    return _checked(float, "a number", lambda value: math.isfinite(value) and holds(value), want)


def whole(lowest: int, want: str, highest: int = 2**31 - 1) -> Callable[[str], Any]:
    """A converter for argparse to a whole number from `lowest` to `highest`."""
    convert = _checked(int, "a whole number", lambda value: lowest <= value, want)

    def convert_within(text: str) -> int:
        value: int = convert(text)
        if value > highest:
            raise argparse.ArgumentTypeError(f"{text!r} can't be used; give at most {highest}")
        return value

    return convert_within


def run_name(text: str) -> str:
    """A name that stays inside the results directory. Raises `argparse.ArgumentTypeError`."""
    bad = (
        not text.strip()
        or text[0] in ".-~"
        or any(character in "/\\" or not character.isprintable() for character in text)
        or len(text.encode()) > MAX_NAME_BYTES
        or text in RESERVED_NAMES
    )
    if bad:
        raise argparse.ArgumentTypeError(
            f"{text!r} can't name a run: it becomes one directory in the results directory; give "
            f"a name of at most {MAX_NAME_BYTES} bytes with no slash, not starting with . - or ~, "
            f"and not {' or '.join(RESERVED_NAMES)}"
        )
    return text


def run_to_resume(text: str) -> str | Path:
    """A run's name, or its directory as a path that ends with its name.

    Raises `argparse.ArgumentTypeError` for what can be neither.
    """
    if "/" not in text and text not in (".", ".."):
        return run_name(text)
    path = Path(_place(text)).expanduser()
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))
    run_name(path.name)
    return path


def _gpus(value: float) -> bool:
    return value >= 0 and (value < 1 or value == int(value))


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m distributed_fmlp.tune`."""
    parser = OneLineParser(
        prog="python -m distributed_fmlp.tune",
        description="Train Architecture 2 with several learning rates in parallel on Ray Tune, "
        "choose the best by validation, and leave a run directory with everything.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--dataset",
        choices=DATASETS,
        help="auto (default): fashion-mnist, or digits where it can't be had, and says so",
    )
    what.add_argument(
        "--data-dir",
        type=existing_directory,
        help="where the data set is or goes (a torchvision root); default: $FMLP_DATA_DIR, then a "
        "cache of yours",
    )
    what.add_argument(
        "--lr",
        action="append",
        type=number(lambda value: value > 0, "a learning rate above 0, such as 0.001"),
        help="a learning rate; repeat for several (default: 0.005 0.001 0.0009 0.0006)",
    )
    what.add_argument(
        "--epochs", type=whole(1, "at least 1 epoch"), help="passes over the data (default: 25)"
    )
    what.add_argument(
        "--batch-size",
        type=whole(2, "at least 2 images (batch norm needs two)"),
        help="images per step (default: 64)",
    )
    what.add_argument(
        "--dropout",
        nargs="+",
        type=number(lambda value: 0 <= value < 1, "a rate from 0 up to, but not, 1"),
        help="one rate, or one per hidden layer (default: 0.3)",
    )
    what.add_argument(
        "--hidden",
        nargs="+",
        type=whole(1, "a layer size of at least 1", 1 << 16),
        help="sizes of the hidden layers (default: 1024 512 256 128)",
    )
    what.add_argument(
        "--seed",
        action="append",
        type=whole(0, "a seed of 0 or more"),
        help="a seed; repeat for several, each with every learning rate (default: 0)",
    )
    what.add_argument(
        "--val-fraction",
        type=number(lambda value: 0 < value < 1, "a share of the images above 0 and below 1"),
        help="share of the training images kept for validation (default: 0.2)",
    )
    what.add_argument(
        "--precision", choices=("fp32", "bf16"), help="arithmetic of the layers (default: fp32)"
    )
    _add_recipe(parser)
    _add_search(parser)
    where = parser.add_argument_group("on what")
    where.add_argument(
        "--cpus-per-trial",
        type=whole(1, "at least 1 CPU"),
        help="CPU threads of each trial (default: from what is there)",
    )
    where.add_argument(
        "--gpus-per-trial",
        type=number(_gpus, "0, a fraction below 1, or a whole number"),
        help="GPUs of each trial, fractions allowed (default: from what is there)",
    )
    where.add_argument(
        "--max-concurrent",
        type=whole(1, "at least 1 trial"),
        help="trials at once at most (default: as many as fit)",
    )
    where.add_argument(
        "--address", help="a running Ray cluster (auto, or HOST:PORT); default: a private one"
    )
    where.add_argument(
        "--storage",
        type=storage_place,
        help="directory or URI (s3://…, gs://…) for checkpoints that every node reaches "
        "(default: the run directory)",
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--name", type=run_name, help="its name (default: data set and time)")
    run.add_argument(
        "--results", type=_place, help="where runs go; this one to RESULTS/NAME (default: results)"
    )
    run.add_argument(
        "--resume",
        metavar="RUN",
        type=run_to_resume,
        help="continue this run (its name, or its directory), with the options it was started with",
    )
    run.add_argument(
        "--max-failures",
        type=whole(0, "0 or more restarts"),
        help="how often a failed trial is restarted from its last checkpoint (default: 3)",
    )
    run.add_argument("--quiet", action="store_true", help="no progress, only the result")
    then = parser.add_argument_group("and then")
    then.add_argument(
        "--serve",
        action="store_true",
        help="go straight on to serve the chosen model on this machine, when the run has finished",
    )
    then.add_argument(
        "--port",
        type=whole(1, "a port from 1 to 65535", 65535),
        help=f"where to serve it (default: {SERVE_PORT})",
    )
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("another recipe than the published one")
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate: constant (default), or cosine, which falls to zero by the end",
    )
    share = number(lambda value: 0 <= value < 1, "a share from 0 up to, but not, 1")
    group.add_argument(
        "--label-smoothing",
        type=share,
        help="share of each label spread evenly over all classes (default: 0)",
    )
    group.add_argument(
        "--weight-decay",
        type=number(lambda value: value >= 0, "0 or more"),
        help="decoupled weight decay of the weight matrices, as in AdamW (default: 0)",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a search over several hyperparameters")
    group.add_argument(
        "--search",
        choices=("grid", "random"),
        help="grid (default): every learning rate with every seed; random: trials drawn at random, "
        "the worse ones stopped early (ASHA)",
    )
    group.add_argument(
        "--samples",
        type=whole(1, "at least 1 trial"),
        help=f"trials of a random search (default: {SAMPLES})",
    )
    group.add_argument(
        "--space",
        action="append",
        metavar="NAME=LOW:HIGH",
        type=_range,
        help=f"what to search, of {', '.join(SEARCHED).replace('_', '-')}; repeat for several "
        f"(default: {' '.join(map(str, DEFAULT_SPACE))})",
    )


def _range(text: str) -> str:
    try:
        return str(parse_range(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _place(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("nothing is given; give a directory")
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: there is no such home directory; give a path that exists"
        ) from None
    return text


def storage_place(text: str) -> str:
    """A URI, or an absolute path. Raises `argparse.ArgumentTypeError` where nothing is given."""
    # A run may be resumed from another directory than the one it was started in.
    return _place(text) if "://" in text else str(Path(_place(text)).expanduser().absolute())


def existing_directory(text: str) -> str:
    """An absolute path. Raises `argparse.ArgumentTypeError` where there is no such directory."""
    if not text or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a directory; create it, or leave the option out"
        )
    return str(Path(text).absolute())  # trials run in directories of their own
