"""The sweep's options: typed, checked against each other, kept through a run and its resuming.

Nothing heavy is imported for them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from distributed_fmlp.architecture import ARCHITECTURE_2_HIDDEN, DROPOUT, Architecture
from distributed_fmlp.command_line import SERVE_PORT, build_parser
from distributed_fmlp.errors import OptionError, RunError
from distributed_fmlp.recipe import RECIPE_FIELDS, Recipe, Schedule
from distributed_fmlp.search_space import (
    SAMPLES,
    SEARCHED,
    Range,
    parse_range,
    search_space,
)

LEARNING_RATES = (0.005, 0.001, 0.0009, 0.0006)
# What may differ when a run is resumed: it says where and how to run, not what is computed.
FREE_ON_RESUME = frozenset(
    {"data_dir", "results", "address", "max_concurrent", "max_failures", "quiet"}
)
# Of these, what each command says for itself, whatever the run was started with.
_OF_THE_COMMAND = ("address", "quiet", "results")
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
        Raises `OptionError` when another is, or when one is none that could have been asked for,
        and `RunError` for an option that this version doesn't have: what it did would be lost.
        """
        unknown = sorted(value.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise RunError(
                f"run {value.get('name')} was made by another version of this program, with "
                f"options that this one doesn't have ({', '.join(unknown)}): resume it with the "
                "version that its run.json names, or start a new run"
            )
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
        serve_port: int | None = None,
    ) -> str:
        """The command that asks for these options, or that resumes the run so named.

        A run that is resumed knows what it was started with, `recorded`; the command then says
        only what is otherwise by now. `serve_port` is where its model is served afterwards.
        """
        words = [python, "-m", "distributed_fmlp.tune"]
        defaults = SweepOptions()
        if resume is not None:
            words += ["--resume", resume]
        for item in fields(self):
            known = defaults
            if resume is not None and item.name not in _OF_THE_COMMAND:
                if item.name not in FREE_ON_RESUME:
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
        if serve_port is not None:
            words += ["--serve", *([] if serve_port == SERVE_PORT else ["--port", str(serve_port)])]
        return shlex.join(words)


@dataclass(frozen=True)
class Request:
    """A parsed command line: the options, those given, the run to resume, what comes after."""

    options: SweepOptions
    given: frozenset[str]
    resume: str | None
    serve_port: int | None = None  # where the run's model is served when the sweep has finished


def parse(arguments: Sequence[str] | None = None) -> Request:
    """Parse a command line.

    Raises `OptionError` for an option that can't be used or contradicts another.
    """
    values = vars(build_parser().parse_args(arguments))
    resume = values.pop("resume", None)
    serves, port = values.pop("serve", False), values.pop("port", None)
    if port is not None and not serves:
        raise OptionError("--port says where to serve: add --serve, or leave it out")
    if isinstance(resume, Path):
        values["results"] = _parent_of(resume, values.get("results"))
        resume = resume.name
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


def _parent_of(run: Path, results: str | None) -> str:
    """Where a run lies that is given by its path. `OptionError` when `--results` says otherwise."""
    parent = str(run.parent)
    if results is None or os.path.abspath(Path(results).expanduser()) == os.path.abspath(parent):
        return parent
    raise OptionError(
        f"--results {results} contradicts --resume {run}, which lies in {parent}: leave --results "
        "out, or give the run's name alone"
    )


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
    for key in _OF_THE_COMMAND:
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
