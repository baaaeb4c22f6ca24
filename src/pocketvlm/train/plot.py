"""Plots the loss of a run by step, from its log."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

_TRAIN, _SMOOTH, _EVAL = "#9aa5b1", "#1f6f8b", "#d1495b"


def problem() -> str | None:
    """Why plots cannot be made, and the way out; None if they can."""
    if find_spec("matplotlib") is None:
        return 'a plot of the loss needs matplotlib: pip install "pocketvlm[report]"'
    return None


def draw(log: Path, path: Path) -> None:
    """Write the image of a log.jsonl as PNG. Raises OSError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    train = [(each["step"], each["loss"]) for each in entries if "loss" in each]
    evaluated = [(each["step"], each["eval_loss"]) for each in entries if "eval_loss" in each]
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color=_TRAIN, linewidth=0.8, label="loss of each step")
        axes.plot(steps, _smoothed(losses), color=_SMOOTH, label="running mean")
        if min(losses) > 0:
            axes.set_yscale("log")
    if evaluated:
        axes.plot(*zip(*evaluated, strict=True), "o-", color=_EVAL, label="evaluation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def _smoothed(values: tuple[float, ...], weight: float = 0.9) -> list[float]:
    """Exponential mean without the bias of its start (Kingma and Ba 2015, Adam, section 3)."""
    found, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        found.append(mean / (1 - weight**count))
    return found
