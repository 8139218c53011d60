"""The table of all servers, and the figures that have bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training_table import Figure

CONNECTIONS = (1, 16, 64)
FORMS = {
    "raw": "one image, raw bytes",
    "json": "one image, JSON",
    "many": "256 images, binary",
}
TIMES_FASTAPI = 1.5
TIMES_RAY = 8.0
TIMES_JSON = {"mlserver": 2.0, "bentoml": 3.0, "litserve": 4.0}
LONE_P50_MS = 2.0
IMAGES_PER_SECOND = 10_000.0
JSON_SHARE = 0.6
START_SECONDS = 20.0
GROWTH_MIB = 4.0

Loads = Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]  # server, form, connections


def render_loads(loads: Loads, labels: Mapping[str, str]) -> str:
    """All loads as plain text, one block for each form."""
    head = ("", "connections", "requests/s", "images/s", "p50 ms", "p99 ms", "errors")
    blocks = []
    for form, title in FORMS.items():
        rows = [(title, *head[1:])]
        for server, measured in loads.items():
            for connections, load in measured.get(form, {}).items():
                rows.append(
                    (
                        labels[server],
                        str(connections),
                        f"{load['requests_per_second']:,.0f}",
                        f"{load['images_per_second']:,.0f}",
                        f"{load['p50_ms']:.2f}",
                        f"{load['p99_ms']:.1f}",
                        str(load["socket_errors"] + load["status_errors"]),
                    )
                )
        if len(rows) > 1:
            blocks.append(_aligned(rows))
    return "\n\n".join(blocks)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def load_figures(loads: Loads, ours: str, limits: Mapping[str, float] | None) -> list[Figure]:
    """What the loads allow to be said of the bars; what wasn't measured is left out."""
    figures = []
    rate = "requests_per_second"
    mine, fast, ray = (_load(loads, name, "raw", 64) for name in (ours, "fastapi", "ray"))
    if mine and fast:
        what = "raw, 64 connections: this service ÷ FastAPI"
        figures.append(Figure(what, mine[rate] / fast[rate], "x", TIMES_FASTAPI, at_least=True))
        what = "  its p99 beside FastAPI's"
        figures.append(Figure(what, mine["p99_ms"], "ms", fast["p99_ms"]))
    if mine and ray:
        what = "raw, 64 connections: this service ÷ Ray Serve, defaults"
        figures.append(Figure(what, mine[rate] / ray[rate], "x", TIMES_RAY, at_least=True))
    for name, wait in (("serve_batch", "2 ms"), ("serve_batch_0", "no wait")):
        theirs = _load(loads, name, "raw", 64)
        if mine and theirs:
            what = f"raw, 64 connections: with @serve.batch ({wait}) ÷ this service"
            figures.append(Figure(what, theirs[rate] / mine[rate], "x"))
    json = _load(loads, ours, "json", 64)
    for rival, times in TIMES_JSON.items():
        theirs = _load(loads, rival, "json", 64)
        if json and theirs:
            what = f"JSON, 64 connections: this service ÷ {rival}"
            figures.append(Figure(what, json[rate] / theirs[rate], "x", times, at_least=True))
    if json and mine:
        what = "JSON ÷ raw, 64 connections"
        figures.append(Figure(what, json[rate] / mine[rate], "x", JSON_SHARE, at_least=True))
    if lone := _load(loads, ours, "raw", 1):
        figures.append(Figure("raw, 1 connection: p50", lone["p50_ms"], "ms", LONE_P50_MS))
    figures += _many_figures(loads.get(ours, {}).get("many", {}), limits)
    if ours in loads:
        errors = sum(
            load["socket_errors"] + load["status_errors"]
            for measured in loads[ours].values()
            for load in measured.values()
        )
        figures.append(Figure("failed requests of this service", errors, "", 0))
    return figures


def _many_figures(
    many: Mapping[int, Mapping[str, Any]], limits: Mapping[str, float] | None
) -> list[Figure]:
    figures = []
    for batch, limit in (limits or {}).items():
        figures.append(Figure(f"images/s of bare matrix products, batch {batch}", limit))
    if many:
        connections, best = max(many.items(), key=lambda item: item[1]["images_per_second"])
        images = best["images_per_second"]
        what = f"images/s, 256 a request, {connections} connections"
        figures.append(Figure(what, images, "", IMAGES_PER_SECOND, at_least=True))
        if limits:
            what = "  of the bare products' (stretch)"
            figures.append(Figure(what, images / max(limits.values()), "x", 0.5, at_least=True))
    return figures


def start_figure(seconds: float) -> Figure:
    """From the command to the first answer."""
    return Figure("from the command to the first answer", seconds, "s", START_SECONDS)


def soak_figures(soak: Mapping[str, Any]) -> list[Figure]:
    """Failures and growth of a soak."""
    load = soak["load"]
    figures = [
        Figure(f"soak of {load['seconds']:.0f} s: requests/s", load["requests_per_second"]),
        Figure("  failed requests", load["socket_errors"] + load["status_errors"], "", 0),
        Figure("  all processes, Ray's too: growth", soak["growth_mib"], "MiB", GROWTH_MIB),
        Figure("  processes", soak["processes"]),
    ]
    for role, growth in soak["growth_mib_by_role"].items():
        figures.append(Figure(f"    {role}", growth, "MiB"))
    return figures


def _load(loads: Loads, server: str, form: str, connections: int) -> Mapping[str, Any] | None:
    return loads.get(server, {}).get(form, {}).get(connections)
