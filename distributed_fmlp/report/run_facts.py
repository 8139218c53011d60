"""The head of a report: what was run, on what data, with which code, when, where, how again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from distributed_fmlp.recipe import RECIPE_FIELDS, Recipe
from distributed_fmlp.report.searched import search_words
from distributed_fmlp.run_directory import Run, format_learning_rate

# Options that say where and how to run; the others are the recipe.
_PLACE_OPTIONS = frozenset(
    {"name", "results", "data_dir", "storage", "address", "max_failures", "quiet", "dataset"}
)


def run_facts(run: Run) -> list[tuple[str, list[str]]]:
    """Names and one or more lines each; what the run didn't record is left out."""
    info = run.info
    facts = [
        ("Run", [info["name"], _status(run)]),
        ("Data", _data(info)),
        ("Network", [_network(run)]),
        ("Search", [search_words(run)]),
        ("Recipe", _recipe(run)),
        ("Code", _code(info)),
        ("When", _when(info)),
        ("Machine", _machine(info)),
    ]
    return [(name, [line for line in lines if line]) for name, lines in facts if any(lines)]


def _status(run: Run) -> str:
    finished, stopped = (
        sum(trial.status == status for trial in run.trials) for status in ("finished", "stopped")
    )
    words = f"{run.info['status']}; {finished} of {len(run.trials)} trials finished"
    return f"{words}, {stopped} stopped early" if stopped else words


def _data(info: Mapping[str, Any]) -> list[str]:
    data = info["dataset"]
    counts = [
        f"{data[key]:,} {words}"
        for key, words in (
            ("n_train", "to train"),
            ("n_validation", "to choose by"),
            ("n_test", "to test"),
        )
        if isinstance(data.get(key), int)
    ]
    return [data["name"], ", ".join(counts), f"SHA-256 {data['sha256']}"]


def _network(run: Run) -> str:
    net = run.info["architecture"]
    sizes = "-".join(str(size) for size in (net["input"], *net["hidden"], net["output"]))
    if any("dropout" in trial.hyperparameters for trial in run.trials):
        return f"{sizes}, dropout searched"
    rates = sorted(set(net["dropout"]))
    return f"{sizes}, dropout {', '.join(map(str, rates))}"


def _recipe(run: Run) -> list[str]:
    options = run.info["options"]
    rates = dict.fromkeys(format_learning_rate(trial.learning_rate) for trial in run.trials)
    seeds = dict.fromkeys(str(trial.seed) for trial in run.trials)
    shown = list(rates) if len(rates) <= 8 else [*list(rates)[:8], f"… ({len(rates)} in all)"]
    plain = [
        f"learning rates {', '.join(shown)}",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
    ]
    for key, words in (("epochs", "epochs"), ("batch_size", "images a batch")):
        if key in options:
            plain.append(f"{options[key]} {words}")
    additions = Recipe.from_json(options).additions
    beyond = f"not the published recipe: {'; '.join(additions)}" if additions else ""
    return ["; ".join(plain), "; ".join(extra_options(options)), beyond]


def extra_options(options: Mapping[str, Any]) -> list[str]:
    """Options of the recipe that the other lines don't show, as they would be given."""
    said = {"lr", "seed", "epochs", "batch_size", "hidden", "dropout", *RECIPE_FIELDS}
    said |= {"search", "samples", "space"}
    return [
        f"{key.replace('_', ' ')} {value}"
        for key, value in options.items()
        if key not in _PLACE_OPTIONS | said and value not in (None, False, [], "")
    ]


def recipe(run: Run) -> dict[str, str]:
    """What decides a run's figures, by name, as text: to find where two runs differ."""
    info = run.info
    # A run that was recorded before an addition existed has its default.
    recorded = {
        "search": "grid",
        "samples": None,
        "space": [],
        **info["options"],
        **Recipe.from_json(info["options"]).to_json(),
    }
    options = {
        key.replace("_", " "): _shown(value)
        for key, value in recorded.items()
        if key not in _PLACE_OPTIONS | {"hidden", "dropout", "lr", "seed"}
    }
    rates = dict.fromkeys(format_learning_rate(trial.learning_rate) for trial in run.trials)
    return {
        "network": _network(run),
        "learning rates": ", ".join(rates),
        "seeds": ", ".join(dict.fromkeys(str(trial.seed) for trial in run.trials)),
        **options,
        "validation images": str(_mapping(info.get("split")).get("sha256", "?"))[:12],
        "commit": str(_mapping(info.get("source")).get("commit") or "?")[:12],
    }


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _code(info: Mapping[str, Any]) -> list[str]:
    source, versions = _mapping(info.get("source")), _mapping(info.get("versions"))
    commit = source.get("commit")
    lines = []
    if commit:
        lines.append(f"commit {commit}{' with changes' if source.get('dirty') else ''}")
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines


def _when(info: Mapping[str, Any]) -> list[str]:
    lines = [f"{moment(info['created'])} to {moment(info.get('finished'))}"]
    if isinstance(info.get("seconds"), (int, float)) and info["seconds"] > 0:
        lines.append(f"took {duration(info['seconds'])}")
    attempts = info.get("attempts")
    if isinstance(attempts, list) and len(attempts) > 1:
        lines.append(f"started or resumed {len(attempts)} times")
    return lines


def _machine(info: Mapping[str, Any]) -> list[str]:
    machine, resources = _mapping(info.get("machine")), _mapping(info.get("resources"))
    parts = [str(machine[key]) for key in ("system", "processor") if machine.get(key)]
    if isinstance(machine.get("cpus"), int):
        parts.append(f"{machine['cpus']} CPUs")
    if isinstance(machine.get("memory_bytes"), int):
        parts.append(f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory")
    for key, words in (("nodes", "nodes"), ("gpus", "GPUs")):
        value = machine.get(key)
        if isinstance(value, (int, float, str)) and value:
            parts.append(f"{value} {words}")
        elif isinstance(value, list) and value:
            parts.append(", ".join(map(str, value)) if key == "gpus" else f"{len(value)} {words}")
    per_trial = [
        f"{resources[key]:g} {words} a trial"
        for key, words in (("cpus_per_trial", "CPU"), ("gpus_per_trial", "GPU"))
        if isinstance(resources.get(key), (int, float)) and resources[key]
    ]
    if isinstance(resources.get("max_concurrent"), int):
        per_trial.append(f"{resources['max_concurrent']} trials at once")
    return [", ".join(parts), ", ".join(per_trial)]


def moment(text: object) -> str:
    """A recorded time as people write it: 2026-11-20 10:00 UTC."""
    if not isinstance(text, str):
        return "not yet"
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = "UTC" if when.utcoffset() is not None and not when.utcoffset() else when.tzname()
    return f"{when:%Y-%m-%d %H:%M} {zone or ''}".strip()


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 9 min 5 s, 1 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
