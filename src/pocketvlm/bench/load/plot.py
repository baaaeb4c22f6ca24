"""Plots a sweep: throughput and latency over the number of concurrent requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketvlm.errors import OptionError

_COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#66a182")


def check() -> None:
    """Raise OptionError if plots cannot be drawn."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise OptionError('--plot needs matplotlib: pip install "pocketvlm[bench]" or pip install matplotlib')


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture of results with rising max_concurrency; one result is one point. Raises OSError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [str(result["max_concurrency"] or "no limit") for result in results]
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4))
    _lines(panels[0], names, {"output tokens/s": [result["output_throughput"] for result in results]})
    for panel, metric in ((panels[1], "ttft"), (panels[2], "tpot")):
        kinds = [key for key in results[0] if key.endswith(f"_{metric}_ms") and key[0] in "mp" and "mean" not in key]
        _lines(panel, names, {key.removesuffix("_ms").replace("_", " "): [r[key] for r in results] for key in kinds})
        panel.set_ylabel("milliseconds")
    for panel in panels:
        panel.set_xlabel("requests at a time")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(frameon=False)
    figure.suptitle(f"{results[0]['model_id']}, {results[0]['num_prompts']} requests a point")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _lines(panel: Any, names: Sequence[str], series: dict[str, list[float]]) -> None:
    for (label, values), colour in zip(series.items(), _COLOURS * 4, strict=False):
        panel.plot(names, values, marker="o", color=colour, label=label)
