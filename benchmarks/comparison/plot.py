"""Draws each row's speed relative to the better peer, with its goal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from comparison.goals import BETTER, GOALS
from comparison.rows import Figures

OWN_COLOUR, PEER_COLOUR, GOAL_COLOUR, TEXT_COLOUR = "#1f6f8b", "#c9d1d6", "#d1495b", "#263238"


def draw(rows: Mapping[str, Figures], path: Path) -> None:
    """Write the picture; raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [(figures, peer) for figures in rows.values() if (peer := figures.better())]
    figure, axes = pyplot.subplots(figsize=(10, 0.62 * len(shown) + 1.6))
    widest = 1.0
    for place, (figures, better) in enumerate(shown):
        ratios = figures.ratios(better)
        middle = statistics.median(ratios)
        spread = [[middle - min(ratios)], [max(ratios) - middle]]
        axes.barh(place - 0.17, middle, 0.34, color=OWN_COLOUR, xerr=spread, ecolor=TEXT_COLOUR, capsize=2)
        axes.barh(place + 0.17, 1, 0.3, color=PEER_COLOUR)
        axes.text(0.03, place + 0.17, better, va="center", fontsize=8, color=TEXT_COLOUR)
        axes.text(0.03, place - 0.17, f"{middle:.2f}x", va="center", fontweight="bold", color="white")
        for goal in GOALS:
            if (goal.row, goal.kind) == (figures.name, "ratio") and goal.against in (better, BETTER):
                axes.plot([goal.limit] * 2, [place - 0.36, place + 0.02], color=GOAL_COLOUR, linewidth=2.5)
                widest = max(widest, goal.limit)
        widest = max(widest, *ratios)
    axes.set_yticks(range(len(shown)), [figures.name for figures, _ in shown])
    axes.invert_yaxis()
    axes.axvline(1, color=PEER_COLOUR, linewidth=1, zorder=0)
    axes.set_xlim(0, widest * 1.12)
    axes.set_xlabel("times as fast as the better peer (blue: pocketvlm; grey: the better peer; red: a goal against it)")
    axes.set_title(
        "pocketvlm compared with llama.cpp and transformers: same weights, same cores, in turns", fontsize=11
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
