"""Goals, the table and the picture of serving.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison.plot import GOAL_COLOUR, OWN_COLOUR, PEER_COLOUR, TEXT_COLOUR
from comparison.report import middle

from service.rows import CLIENTS, Figures

GOALS = {1: 1.3, 4: 2.0, 8: 2.5, 16: 3.0}
OWN = "pocketvlm"
Rows = Mapping[str, Figures]


def better(figures: Figures) -> str | None:
    """The peer with the highest median."""
    peers = [name for name in figures.values if name != OWN and not name.startswith("ratio")]
    return max(peers, key=figures.median, default=None)


def _show(figures: Figures, digits: int = 1) -> str:
    """All columns; shares and ratios have units of their own."""
    lines = []
    for name, values in figures.values.items():
        if name.startswith("ratio"):
            lines.append(f"**{middle(values, '.2f', 'x')}** {name.removeprefix('ratio').strip()}".strip())
        elif name.endswith(", %"):
            lines.append(f"**{middle(values, f'.{digits}f', ' %')}** {name.removesuffix(', %')}")
        else:
            lines.append(f"{name}: {middle(values, f'.{digits}f', f' {figures.unit}')}")
    return "<br>".join(lines)


def verdicts(rows: Rows) -> list[tuple[str, str, str, bool | None]]:
    """For each row: its name, its result, its goal, and whether the goal is met (None: no peer to compare with)."""
    found: list[tuple[str, str, str, bool | None]] = []
    for clients in CLIENTS:
        if figures := rows.get(f"throughput-{clients}"):
            peer = better(figures)
            met = None if peer is None else figures.median(f"ratio to {peer}") >= GOALS[clients]
            found.append((figures.name, _show(figures), f"at least {GOALS[clients]:g}x the better peer", met))
    if figures := rows.get("images"):
        found.append((figures.name, _show(figures, 2), "", None))
    if figures := rows.get("text-beside-images"):
        bound = figures.median("one chunk and one view") + figures.median("idle, median")
        goal = f"p95 within one chunk, one view and the text alone: {bound:.0f} ms"
        found.append((figures.name, _show(figures, 0), goal, figures.median("p95") <= bound))
    if figures := rows.get("second-turn"):
        share = figures.median(f"{OWN}, second over first, %")
        found.append((figures.name, _show(figures), "at most 15 % of the first turn", share <= 15))
    if figures := rows.get("overhead"):
        slowest = max(figures.median(f"server over engine, {count} at a time, %") for count in (1, 8))
        found.append((figures.name, _show(figures, 2), "server alone: a token takes at most 3 % longer", slowest <= 3))
    if figures := rows.get("idle-connections"):
        met = figures.median("ratio") >= 0.97
        found.append((figures.name, _show(figures), "no loss: a ratio of at least 0.97", met))
    return found


def table(rows: Rows) -> str:
    """As Markdown."""
    lines = ["| | measured | goal | met |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    return "\n".join(
        lines + [f"| {name} | {shown} | {goal} | {words[met]} |" for name, shown, goal, met in verdicts(rows)]
    )


def _turns(rows: Rows) -> str:
    """How many turns each row had; rows can be of different runs."""
    counts = {figures.name: min(map(len, figures.values.values())) for figures in rows.values()}
    codes = {figures.name: f" of commit {figures.code}" for figures in rows.values() if figures.code}
    return "; ".join(f"{name}: {count}{codes.get(name, '')}" for name, count in counts.items())


def section(kind: str, record: Mapping[str, Any], rows: Rows, picture: str | None) -> str:
    """What docs/benchmarks.md says about one kind of machine."""
    facts = "; ".join(f"{key}: {value}" for key, value in record["machine"].items())
    missed = "".join(f"\n\nNot in this run: {line}" for line in record["missing"])
    return "\n\n".join(
        [
            f"### Servers on {kind}: {record['machine']['cpu']}",
            *([record["note"]] if record.get("note") else []),
            *([f"![Throughput over the number of clients]({picture})"] if picture else []),
            table(rows),
            f"Median (least-most) of the turns after one that does not count: {_turns(rows)}. Ratios are of neighbours "
            f"in time. {facts}.{missed}",
        ]
    )


def draw(rows: Rows, path: Path) -> bool:
    """Throughput of each server over the number of clients, with the goals; False if none was measured.

    Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {clients: rows[f"throughput-{clients}"] for clients in CLIENTS if f"throughput-{clients}" in rows}
    if not found:
        return False
    names = list(dict.fromkeys(name for row in found.values() for name in row.values if not name.startswith("ratio")))
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    shades = {OWN: OWN_COLOUR}
    for name, shade in zip([name for name in names if name != OWN], (TEXT_COLOUR, PEER_COLOUR), strict=False):
        shades[name] = shade
    for name in names:
        places = [i for i, row in enumerate(found.values()) if name in row.values]
        rated = [row for row in found.values() if name in row.values]
        middles = [row.median(name) for row in rated]
        spread = [
            [m - min(row.values[name]) for m, row in zip(middles, rated, strict=True)],
            [max(row.values[name]) - m for m, row in zip(middles, rated, strict=True)],
        ]
        axes.errorbar(
            places, middles, yerr=spread, marker="o", capsize=3, color=shades.get(name, PEER_COLOUR), label=name
        )
    goals = [GOALS[clients] * row.median(peer) if (peer := better(row)) else math.nan for clients, row in found.items()]
    axes.plot(range(len(goals)), goals, "_", markersize=22, markeredgewidth=2.5, color=GOAL_COLOUR, label="goal")
    axes.set_xticks(range(len(found)), [str(clients) for clients in found])
    axes.set_xlabel("clients, each with one request of 32 tokens in")
    axes.set_ylabel("output tokens a second, all clients")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
