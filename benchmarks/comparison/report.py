"""Results as Markdown: the table, the goals, the errors, and the part of docs/benchmarks.md that holds them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.goals import Verdict, judge
from comparison.rows import Figures


def save(path: Path, record: Mapping[str, Any], rows: Mapping[str, Figures]) -> None:
    """Write everything that was measured."""
    verdicts = [{**vars(verdict.goal), "median": verdict.values[0], "met": verdict.met} for verdict in judge(rows)]
    whole = {**record, "rows": [figures.as_json() for figures in rows.values()], "goals": verdicts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")


def restore(path: Path) -> tuple[dict[str, Any], dict[str, Figures]]:
    """Read what `save` wrote."""
    record = json.loads(path.read_text())
    del record["goals"]
    return record, {row["name"]: Figures(**row) for row in record.pop("rows")}


def middle(values: Sequence[float], form: str, unit: str) -> str:
    """The median with (minimum-maximum)."""
    return f"{statistics.median(values):{form}}{unit} ({min(values):{form}}-{max(values):{form}})"


def amount(figures: Figures, values: Sequence[float]) -> str:
    """Seconds or bytes as a reader wants them."""
    if figures.name.startswith("memory"):
        return middle([value / 2**20 for value in values], ".0f", " MiB")
    if figures.tokens:
        return middle([figures.tokens / value for value in values], ".1f", " tok/s")
    return middle([value * 1000 for value in values], ".0f", " ms")


def table(rows: Mapping[str, Figures]) -> str:
    """Ours, each peer and the goals, row by row."""
    verdicts = judge(rows)
    lines = ["| | pocketvlm | peers | faster than | goal | met |", "|---|---|---|---|---|---|"]
    for name, figures in rows.items():
        if not figures.ours():
            continue
        peers = [f"{peer}: {amount(figures, [t for _, t in pairs])}" for peer, pairs in figures.pairs.items()]
        ratios = [f"{peer}: {middle(figures.ratios(peer), '.2f', 'x')}" for peer in figures.pairs]
        own = [amount(figures, figures.ours())]
        if shares := figures.shares():
            own.append(f"{middle([100 * share for share in shares], '.0f', ' %')} of the bandwidth")
        goals = [verdict for verdict in verdicts if verdict.goal.row == name]
        cells = [own, peers, ratios, [v.goal.text() for v in goals], ["yes" if v.met else "**no**" for v in goals]]
        lines.append(f"| {name} | {' | '.join('<br>'.join(cell) for cell in cells)} |")
    return "\n".join(lines)


def errors(record: Mapping[str, Any]) -> str:
    """How far from exact: logits, features, weights."""
    found = record["errors"]
    parts = []
    if text := found.get("text"):
        parts += ["| logits of the language model | relative error | same best token |", "|---|---|---|"]
        parts += [f"| {name} | {v['error']:.3f} | {v['same best token']:.0%} |" for name, v in text.items()]
    if vision := found.get("vision"):
        parts += ["", "| features of a view | relative error, 16x | 4x |", "|---|---|---|"]
        cells = {name: [f"{v[mode]:.2e}" if mode in v else "" for mode in ("16x", "4x")] for name, v in vision.items()}
        parts += [f"| {name} | {' | '.join(values)} |" for name, values in cells.items()]
    if weights := found.get("weights"):
        parts += ["", "| weights of the language model | mean error of a matrix | bits a weight |", "|---|---|---|"]
        parts += [f"| {name} | {v['error']:.2%} | {v['bits']:.2f} |" for name, v in weights.items()]
    return "\n".join(parts)


def page(record: Mapping[str, Any], rows: Mapping[str, Figures], picture: str | None) -> str:
    """The whole part of docs/benchmarks.md."""
    facts = "; ".join(f"{key}: {value}" for key, value in record["machine"].items())
    checked = "; ".join(f"{name} {value:.1e}" for name, value in record["checked"].items())
    speeds = [figures.bandwidth for figures in rows.values() if figures.bandwidth]
    read = middle([value / 1e9 for values in speeds for value in values], ".1f", " GB/s") if speeds else "not measured"
    missed = "".join(f"\n\nNot in this run: {line}" for line in record["missing"])
    return "\n\n".join(
        [
            *([f"![Speed relative to the better peer]({picture})"] if picture else []),
            table(rows),
            f"Median (least-most) of {record['runs']} turns after one that does not count; two for 19 views, "
            f"all counted, and for memory. Ratios are of neighbours in time. Memory read: {read}. {facts}.{missed}",
            f"Checked first against our exact arithmetic, as relative errors unless named otherwise: {checked}.",
            errors(record),
        ]
    )


def write_page(path: Path, text: str, name: str) -> None:
    """Replace the part of a page between the markers of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def summary(verdicts: Sequence[Verdict]) -> str:
    """One line on the goals."""
    missed = [f"{verdict.goal.row} ({verdict.goal.text()})" for verdict in verdicts if not verdict.met]
    return f"{len(verdicts) - len(missed)} of {len(verdicts)} goals met" + "".join(
        f"\n  not: {line}" for line in missed
    )
