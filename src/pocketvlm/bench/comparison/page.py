"""`page` shows a comparison of two models as text."""

from __future__ import annotations

from pocketvlm.api.comparison import Comparison, KindDivergence, ModelSize, Speed
from pocketvlm.bench.table import columns
from pocketvlm.bytesize import readable_size

_LAYERS_A_LINE = 8


def page(comparison: Comparison) -> str:
    """Tables of sizes, divergence by kind of sample, errors of features and errors by layer."""
    blocks = [_models(comparison), _kinds(comparison)]
    if comparison.features:
        blocks.append(_features(comparison))
    if comparison.layers:
        blocks.append(_layers(comparison))
    blocks.append([f"note: {note}" for note in comparison.notes])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _models(comparison: Comparison) -> list[str]:
    models = {"reference": comparison.reference, "candidate": comparison.candidate}
    speeds = {"reference": comparison.reference_speed, "candidate": comparison.candidate_speed}
    rows = [["", "size", "bits/weight", "language", "vision", "prefill tok/s", "decode tok/s"]]
    rows += [[f"{kind} {model.name}", *_size(model), *_speed(speeds[kind])] for kind, model in models.items()]
    if not any(speeds.values()):
        rows = [row[:-2] for row in rows]
    rows[0][0] = "model"
    quantized = [f"{kind}: {model.quantization}" for kind, model in models.items() if model.quantization]
    return [*columns(rows), *quantized]


def _size(model: ModelSize) -> list[str]:
    vision = "-" if model.vision_bits_per_weight is None else f"{model.vision_bits_per_weight:.2f}"
    return [
        readable_size(model.bytes),
        f"{model.bits_per_weight:.2f}",
        f"{model.language_bits_per_weight:.2f}",
        vision,
    ]


def _speed(speed: Speed | None) -> list[str]:
    return ["-", "-"] if speed is None else [f"{speed.prefill:.1f}", f"{speed.decode:.1f}"]


def _kinds(comparison: Comparison) -> list[str]:
    rows = [["KL divergence, nats", "samples", "positions", "mean", "median", "99 %", "max", "top-1"]]
    rows += [_kind(row) for row in (*comparison.kinds, comparison.total)]
    return columns(rows)


def _kind(row: KindDivergence) -> list[str]:
    found = row.divergence
    numbers = [f"{number:.2e}" if 0 < number < 1e-4 else f"{number:.5f}" for number in
               (found.mean, found.median, found.p99, found.maximum)]  # fmt: skip
    return [row.kind, str(row.samples), str(found.positions), *numbers, f"{found.top1:.2%}"]


def _features(comparison: Comparison) -> list[str]:
    rows = [["vision features", "rows", "relative error", "cosine"]]
    rows += [[row.mode, str(row.features), _share(row.relative), f"{row.cosine:.6f}"] for row in comparison.features]
    return columns(rows)


def _layers(comparison: Comparison) -> list[str]:
    """Several layers a line, because there are dozens."""
    rows = comparison.layers
    found = ["relative error after each layer"]
    cells = []
    for start in range(0, len(rows), _LAYERS_A_LINE):
        some = rows[start : start + _LAYERS_A_LINE]
        cells.append([f"{some[0].layer}-{some[-1].layer}", *(_share(row.relative) for row in some)])
    width = max(map(len, cells))
    return [*found, *columns([[*row, *[""] * (width - len(row))] for row in cells])]


def _share(error: float) -> str:
    return f"{error:.2%}" if error >= 1e-3 or error == 0 else f"{error:.1e}"
