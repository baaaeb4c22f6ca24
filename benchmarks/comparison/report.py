"""Results as Markdown: the table, the goals, the errors, and the part of docs/benchmarks.md that holds them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comparison.goals import Verdict, judge
from comparison.rows import Figures


@dataclass
class Results:
    """What was measured on one kind of machine.

    missing: lines on what was left out, by row or part. checked: differences to exact arithmetic. checked_code: the
    commit of that check. errors: of fast arithmetic. note: what to know of rows that were stored without their commit.
    """

    machine: dict[str, str] = field(default_factory=dict)
    runs: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)
    checked: dict[str, float] = field(default_factory=dict)
    checked_code: str = ""
    errors: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    rows: dict[str, Figures] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write everything, with the verdicts on goals."""
        goals = [
            {**vars(verdict.goal), "median": verdict.values[0], "met": verdict.met} for verdict in judge(self.rows)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(self), "goals": goals}, indent=1) + "\n")

    @classmethod
    def restore(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        record = json.loads(path.read_text())
        del record["goals"]
        rows = {name: Figures(**row) for name, row in record.pop("rows").items()}
        return cls(**record, rows=rows)


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


def errors(found: Mapping[str, Any]) -> str:
    """How far from exact: logits, features, weights."""
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


def section(kind: str, results: Results, picture: str | None) -> str:
    """What docs/benchmarks.md says about one kind of machine."""
    facts = "; ".join(f"{key}: {value}" for key, value in results.machine.items())
    checked = "; ".join(f"{name} {value:.1e}" for name, value in results.checked.items())
    speeds = [figures.bandwidth for figures in results.rows.values() if figures.bandwidth]
    read = middle([value / 1e9 for values in speeds for value in values], ".1f", " GB/s") if speeds else "not measured"
    left_out = list(dict.fromkeys(line for lines in results.missing.values() for line in lines))
    return "\n\n".join(
        [
            f"### {kind}: {results.machine['cpu']}",
            *([results.note] if results.note else []),
            *([f"![Speed relative to the better peer]({picture})"] if picture else []),
            table(results.rows),
            f"Median (least-most) of {results.runs} turns after one that does not count; two for 19 views, "
            f"all counted, and for memory. Ratios are of neighbours in time. {_codes(results.rows)}"
            f"Memory read: {read}. {facts}.",
            *(f"Not measured: {line}" for line in left_out),
            *([f"Checked first against our exact arithmetic, as relative errors unless named otherwise: {checked}."]
              if checked else []),
            errors(results.errors),
        ]
    )  # fmt: skip


def _codes(rows: Mapping[str, Figures]) -> str:
    """The commits of the rows."""
    found: dict[str, list[str]] = {}
    for name, figures in rows.items():
        found.setdefault(figures.code, []).append(name)
    if list(found) == [""]:
        return ""
    named = [f"{code or 'older'} ({', '.join(names)})" if len(found) > 1 else code for code, names in found.items()]
    return f"Code: {'; '.join(named)}. "


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
