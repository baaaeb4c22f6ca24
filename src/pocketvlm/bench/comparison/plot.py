"""Plots a comparison of two models: divergence by kind of sample, error by layer, and sizes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pocketvlm.api.comparison import Comparison

_REFERENCE, _CANDIDATE, _OTHER = "#9aa5b1", "#1f6f8b", "#d1495b"


def problem() -> str | None:
    """Why plots cannot be drawn, and the way out; None if they can."""
    if find_spec("matplotlib") is None:
        return 'a plot needs matplotlib: pip install "pocketvlm[report]" or pip install matplotlib'
    return None


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture of a comparison as PNG. Raises OSError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(14, 4.2), width_ratios=(5, 6, 3))
    _divergence(panels[0], comparison)
    _layers(panels[1], comparison)
    _sizes(panels[2], comparison)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    figure.suptitle(f"{_short(comparison.candidate.name)} against {_short(comparison.reference.name)}")
    figure.tight_layout()
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def _divergence(panel: Any, comparison: Comparison) -> None:
    rows = [*comparison.kinds, comparison.total]
    positions = range(len(rows))
    width = 0.38
    means, p99s = [row.divergence.mean for row in rows], [row.divergence.p99 for row in rows]
    panel.bar([position - width / 2 for position in positions], means, width, label="mean", color=_CANDIDATE)
    panel.bar([position + width / 2 for position in positions], p99s, width, label="99th percentile", color=_OTHER)
    if min(means) > 0:
        panel.set_yscale("log")
    panel.set_xticks(list(positions), [f"{row.kind}\ntop-1 {row.divergence.top1:.1%}" for row in rows], fontsize=8)
    panel.set_ylabel("nats")
    panel.set_title("KL divergence")
    panel.margins(y=0.3)  # for the legend
    panel.legend(frameon=False, ncols=2, loc="upper center")


def _layers(panel: Any, comparison: Comparison) -> None:
    panel.set_title("relative error of the rows after each layer")
    panel.set_xlabel("layer")
    panel.xaxis.get_major_locator().set_params(integer=True)
    if not comparison.layers:
        panel.text(0.5, 0.5, "the networks differ in depth or width", ha="center", va="center")
        return
    for kind, marker in (("linear_attention", "o"), ("full_attention", "s")):
        rows = [row for row in comparison.layers if row.kind == kind]
        label = kind.replace("_", " ")
        panel.plot([row.layer for row in rows], [row.relative for row in rows], marker, label=label, color=_CANDIDATE)
    panel.plot(
        [row.layer for row in comparison.layers], [row.relative for row in comparison.layers], "-", color=_CANDIDATE
    )
    for row, style in zip(comparison.features, ("--", ":"), strict=False):
        panel.axhline(row.relative, linestyle=style, color=_OTHER, label=f"vision features, {row.mode}")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=8)


def _sizes(panel: Any, comparison: Comparison) -> None:
    models = (comparison.reference, comparison.candidate)
    bars = panel.bar(
        ["reference", "candidate"], [model.bytes / 1e6 for model in models], color=(_REFERENCE, _CANDIDATE), width=0.6
    )
    panel.bar_label(bars, [f"{model.language_bits_per_weight:.2f} bits" for model in models], padding=2, fontsize=8)
    panel.set_ylabel("MB")
    panel.set_title("size; bits a weight\nof the language model", fontsize=10)


def _short(name: str, length: int = 48) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
