"""One style for every plot, and what all of them share: figure, heading, PNG bytes.

Only matplotlib's object interface is used: no global figure, no display, no state left behind. The
colours are those of Okabe and Ito's palette, which colour-blind readers can tell apart; line styles
and marker shapes say the same once more.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distributed_fmlp.records import TrialRecord
from distributed_fmlp.report.quantities import VERMILION
from distributed_fmlp.run_directory import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, GREY = "#000000", "#5A5A5A"
DPI = 110

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.parse_math": False,  # a class may be called "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change what is committed
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the writer's version in it the same figures give the same bytes.
    figure.savefig(
        buffer, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 4}
    )
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def heading(figure: Figure, run: Run, left: float, title: str, note: str) -> None:
    """Title and a line of small print, flush left; the warning of substituted data goes first."""
    dataset = run.info["dataset"]
    height = figure.get_figheight()
    if dataset["substituted"]:
        title = f"{dataset['name']} IN PLACE OF fashion-mnist · {title}"
        colour = VERMILION
    else:
        title, colour = f"{title} · {dataset['name']}", BLACK
    figure.text(left, 1 - 0.30 / height, title, fontsize=12, fontweight="bold", color=colour)
    figure.text(left, 1 - 0.52 / height, note, fontsize=9, color=GREY)


def seed_words(trials: Sequence[TrialRecord]) -> str:
    seeds = [str(trial.seed) for trial in trials]
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"{len(seeds)} seeds" if len(seeds) > 6 else f"seeds {', '.join(seeds)}"


def progress_words(run: Run, trials: Sequence[TrialRecord]) -> str:
    """That curves are not at their end yet, or why they never get there."""
    epochs = run.info["options"].get("epochs", "?")
    parts = []
    told = {"running": "still running", "pending": "waiting", "stopped": "stopped early"}
    for status, words in {**told, "failed": "failed"}.items():
        some = [trial for trial in trials if trial.status == status]
        if some and len(trials) == 1:
            parts.append(f"{words}: {len(some[0].epochs)} of {epochs} epochs")
        elif some:
            parts.append(f"{len(some)} {words}")
    return " · ".join(["", *parts])
