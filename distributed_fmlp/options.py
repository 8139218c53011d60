"""The sweep's options: parsed, typed and checked once, before anything heavy is imported."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from distributed_fmlp.architecture import ARCHITECTURE_2_HIDDEN, DROPOUT, Architecture
from distributed_fmlp.errors import OptionError
from distributed_fmlp.recipe import RECIPE_FIELDS, SCHEDULES, Recipe, Schedule
from distributed_fmlp.search_space import (
    DEFAULT_SPACE,
    SAMPLES,
    SEARCHED,
    Range,
    parse_range,
    search_space,
)

LEARNING_RATES = (0.005, 0.001, 0.0009, 0.0006)
DATASETS = ("auto", "fashion-mnist", "digits")
MAX_NAME_BYTES = 100
SERVE_PORT = 8000
# What may differ when a run is resumed: it says where and how to run, not what is computed.
FREE_ON_RESUME = frozenset(
    {"data_dir", "results", "address", "max_concurrent", "max_failures", "quiet"}
)
# Options that runs recorded before they existed do without.
_LATER = frozenset({*RECIPE_FIELDS, "search", "samples", "space"})


@dataclass(frozen=True)
class SweepOptions:
    """What to train and where; `None` means decided from what the machine or cluster has."""

    dataset: str = "auto"
    data_dir: str | None = None
    lr: tuple[float, ...] = LEARNING_RATES
    epochs: int = 25
    batch_size: int = 64
    dropout: tuple[float, ...] = (DROPOUT,)
    hidden: tuple[int, ...] = ARCHITECTURE_2_HIDDEN
    seed: tuple[int, ...] = (0,)
    val_fraction: float = 0.2
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    schedule: Schedule = "constant"
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    flip: float = 0.0
    shift: float = 0.0
    search: Literal["grid", "random"] = "grid"
    samples: int | None = None
    space: tuple[str, ...] = ()
    name: str | None = None
    results: str = "results"
    storage: str | None = None
    address: str | None = None
    max_failures: int = 3
    quiet: bool = False

    def __post_init__(self) -> None:
        if len(self.dropout) not in (1, len(self.hidden)):
            raise OptionError(
                f"--dropout: {len(self.dropout)} rates for {len(self.hidden)} hidden layers; "
                "give one rate, or one per hidden layer"
            )
        for option, values in (("--lr", self.lr), ("--seed", self.seed)):
            if len(set(values)) < len(values):
                raise OptionError(f"{option}: the same value is given twice; give each once")
        self._check_search()

    def _check_search(self) -> None:
        """Raises `OptionError` where the search's options contradict the others."""
        if self.search == "grid":
            for option, value in (("--samples", self.samples), ("--space", self.space)):
                if value:
                    raise OptionError(
                        f"{option} {_shown(value)} is for a random search: add --search random, or "
                        "leave it out"
                    )
            return
        if self.lr != LEARNING_RATES:
            raise OptionError(
                "--lr lists the learning rates of a grid: with --search random give a range, such "
                "as --space lr=0.0003:0.005"
            )
        if len(self.seed) > 1:
            raise OptionError(
                "--search random takes one --seed, which also draws the samples: run what it finds "
                "again with several"
            )
        names = [parse_range(each).name for each in self.space]
        for name in names:
            option = name.replace("_", "-")
            if names.count(name) > 1:
                raise OptionError(f"--space {option} is given twice; give each range once")
            if name in self._fixed:
                raise OptionError(
                    f"--space {option} contradicts --{option}: search it, or give its value"
                )

    @property
    def _fixed(self) -> list[str]:
        """Hyperparameters that could be searched and were given a value."""
        usual = {item.name: item.default for item in fields(self)}
        return [name for name in SEARCHED if name != "lr" and getattr(self, name) != usual[name]]

    @property
    def ranges(self) -> dict[str, Range]:
        """What a random search draws from, by the option's name."""
        return search_space(self.space, self._fixed)

    @property
    def n_samples(self) -> int:
        """How many trials a random search draws."""
        return SAMPLES if self.samples is None else self.samples

    @property
    def architecture(self) -> Architecture:
        """The network, with one dropout rate per hidden layer."""
        return Architecture(hidden=self.hidden, dropout=_rates(self.dropout, self))

    @property
    def recipe(self) -> Recipe:
        """What is added to the published recipe."""
        return Recipe.from_json({name: getattr(self, name) for name in RECIPE_FIELDS})

    def to_json(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SweepOptions:
        """Options as a run recorded them, each as the command line would take it.

        Options that came later than the first runs have their defaults where they are missing.
        Raises `OptionError` when another is, or when one is none that could have been asked for.
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            if item.name not in value:
                if item.name in _LATER:
                    continue
                raise OptionError(f"{item.name} is missing")
            given = value[item.name]
            values[item.name] = tuple(given) if isinstance(given, list) else given
        options = cls(**values)
        # A data directory may have gone since; whoever reads it says so.
        kept = replace(options, data_dir=None)
        if parse(shlex.split(kept.command())[3:]).options != kept:
            raise OptionError("a value is not of its option's kind")
        return options

    def command(
        self,
        *,
        resume: str | None = None,
        recorded: SweepOptions | None = None,
        python: str = "python",
    ) -> str:
        """The command that asks for these options, or that resumes the run so named.

        A run that is resumed knows what it was started with, `recorded`; the command then says
        only what is otherwise by now.
        """
        words = [python, "-m", "distributed_fmlp.tune"]
        defaults = SweepOptions()
        if resume is not None:
            words += ["--resume", resume]
        for item in fields(self):
            known = defaults
            if resume is not None and item.name not in ("results", "address"):
                if item.name not in FREE_ON_RESUME or item.name == "quiet":
                    continue
                known = recorded or self
            value = getattr(self, item.name)
            if value == getattr(known, item.name):
                continue
            option = "--" + item.name.replace("_", "-")
            if value is True:
                words.append(option)
            elif item.name in ("lr", "seed", "space"):
                words += [word for each in value for word in (option, str(each))]
            elif isinstance(value, tuple):
                words += [option, *map(str, value)]
            else:
                words += _words(option, str(value))
        return shlex.join(words)


@dataclass(frozen=True)
class Request:
    """A parsed command line: the options, those given, the run to resume, what comes after."""

    options: SweepOptions
    given: frozenset[str]
    resume: str | None
    serve_port: int | None = None  # where the run's model is served when the sweep has finished


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


def _number(holds: Callable[[float], bool], want: str) -> Callable[[str], Any]:
    return _checked(float, "a number", lambda value: math.isfinite(value) and holds(value), want)


def _whole(lowest: int, want: str, highest: int = 2**31 - 1) -> Callable[[str], Any]:
    return _checked(int, "a whole number", lambda value: lowest <= value <= highest, want)


def run_name(text: str) -> str:
    """A name that stays inside the results directory. Raises `argparse.ArgumentTypeError`."""
    bad = (
        not text.strip()
        or text[0] in ".-~"
        or any(character in "/\\" or not character.isprintable() for character in text)
        or len(text.encode()) > MAX_NAME_BYTES
    )
    if bad:
        raise argparse.ArgumentTypeError(
            f"{text!r} can't name a run: it becomes one directory in the results directory; give "
            f"a name of at most {MAX_NAME_BYTES} bytes with no slash, not starting with . - or ~"
        )
    return text


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
        type=_existing_directory,
        help="where the data set is or goes (a torchvision root); default: $FMLP_DATA_DIR, then a "
        "cache of yours",
    )
    what.add_argument(
        "--lr",
        action="append",
        type=_number(lambda value: value > 0, "a learning rate above 0, such as 0.001"),
        help="a learning rate; repeat for several (default: 0.005 0.001 0.0009 0.0006)",
    )
    what.add_argument(
        "--epochs", type=_whole(1, "at least 1 epoch"), help="passes over the data (default: 25)"
    )
    what.add_argument(
        "--batch-size",
        type=_whole(2, "at least 2 images (batch norm needs two)"),
        help="images per step (default: 64)",
    )
    what.add_argument(
        "--dropout",
        nargs="+",
        type=_number(lambda value: 0 <= value < 1, "a rate from 0 up to, but not, 1"),
        help="one rate, or one per hidden layer (default: 0.3)",
    )
    what.add_argument(
        "--hidden",
        nargs="+",
        type=_whole(1, "a layer size of at least 1", 1 << 16),
        help="sizes of the hidden layers (default: 1024 512 256 128)",
    )
    what.add_argument(
        "--seed",
        action="append",
        type=_whole(0, "a seed of 0 or more"),
        help="a seed; repeat for several, each with every learning rate (default: 0)",
    )
    what.add_argument(
        "--val-fraction",
        type=_number(lambda value: 0 < value < 1, "a share of the images above 0 and below 1"),
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
        type=_whole(1, "at least 1 CPU"),
        help="CPU threads of each trial (default: from what is there)",
    )
    where.add_argument(
        "--gpus-per-trial",
        type=_number(_gpus, "0, a fraction below 1, or a whole number"),
        help="GPUs of each trial, fractions allowed (default: from what is there)",
    )
    where.add_argument(
        "--max-concurrent",
        type=_whole(1, "at least 1 trial"),
        help="trials at once at most (default: as many as fit)",
    )
    where.add_argument(
        "--address", help="a running Ray cluster (auto, or HOST:PORT); default: a private one"
    )
    where.add_argument(
        "--storage",
        type=_storage,
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
        metavar="NAME",
        type=run_name,
        help="continue the run NAME, with the options it was started with",
    )
    run.add_argument(
        "--max-failures",
        type=_whole(0, "0 or more restarts"),
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
        type=_whole(1, "a port from 1 to 65535", 65535),
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
    share = _number(lambda value: 0 <= value < 1, "a share from 0 up to, but not, 1")
    probability = _number(lambda value: 0 <= value <= 1, "a probability from 0 to 1")
    group.add_argument(
        "--label-smoothing",
        type=share,
        help="share of each label spread evenly over all classes (default: 0)",
    )
    group.add_argument(
        "--weight-decay",
        type=_number(lambda value: value >= 0, "0 or more"),
        help="decoupled weight decay of the weight matrices, as in AdamW (default: 0)",
    )
    group.add_argument(
        "--flip",
        type=probability,
        help="probability of mirroring a training image left to right (default: 0)",
    )
    group.add_argument(
        "--shift",
        type=probability,
        help="probability of moving a training image by one pixel (default: 0)",
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
        type=_whole(1, "at least 1 trial"),
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


def _storage(text: str) -> str:
    # A run may be resumed from another directory than the one it was started in.
    return _place(text) if "://" in text else str(Path(_place(text)).expanduser().absolute())


def _existing_directory(text: str) -> str:
    if not text or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a directory; create it, or leave the option out"
        )
    return str(Path(text).absolute())  # trials run in directories of their own


def parse(arguments: Sequence[str] | None = None) -> Request:
    """Parse a command line.

    Raises `OptionError` for an option that can't be used or contradicts another.
    """
    values = vars(build_parser().parse_args(arguments))
    resume = values.pop("resume", None)
    serves, port = values.pop("serve", False), values.pop("port", None)
    if port is not None and not serves:
        raise OptionError("--port says where to serve: add --serve, or leave it out")
    given = frozenset(values)
    if resume is not None and "name" in given and values["name"] != resume:
        raise OptionError(
            f"--name {values['name']} contradicts --resume {resume}: a resumed run keeps its name; "
            "leave --name out"
        )
    typed: dict[str, Any] = {
        key: tuple(item) if isinstance(item, list) else item for key, item in values.items()
    }
    options = SweepOptions(**typed)
    serve_port = (port or SERVE_PORT) if serves else None
    return Request(options, given, resume, serve_port)


def resumed_options(
    request: Request, recorded: SweepOptions, shares: Mapping[str, Any] | None = None
) -> SweepOptions:
    """The recorded options of a run, with what this command may say anew.

    `shares` are the resources of each trial as the run decided them where no option did.

    Raises `OptionError` for an option that was given and contradicts the run.
    """
    for key in sorted(request.given - FREE_ON_RESUME):
        asked, was = getattr(request.options, key), getattr(recorded, key)
        if key == "dropout":
            asked, was = _rates(asked, recorded), _rates(was, recorded)
        if key == "name":
            was = request.resume
        if was is None and shares:
            was = shares.get(key)
        if asked != was:
            raise OptionError(
                f"--{key.replace('_', '-')} {_shown(asked)} contradicts the run "
                f"{request.resume}, which was started with {_shown(was)}; leave the option out, or "
                "start a new run"
            )
    anew: dict[str, Any] = {
        key: getattr(request.options, key) for key in request.given & FREE_ON_RESUME
    }
    # Where the sweep ran before says nothing about where it is to run now, and it was found in the
    # results directory of this command.
    for key in ("address", "quiet", "results"):
        anew.setdefault(key, getattr(request.options, key))
    return replace(recorded, **anew)


def _rates(dropout: tuple[float, ...], options: SweepOptions) -> tuple[float, ...]:
    """One dropout rate per hidden layer of `options`, where one stands for all."""
    return dropout * len(options.hidden) if len(dropout) == 1 else dropout


def _words(option: str, value: str) -> list[str]:
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _shown(value: Any) -> str:
    if value is None:
        return "none given"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
