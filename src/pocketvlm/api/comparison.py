"""`Comparison` says how far a candidate is from a reference: divergence, errors, sizes, speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pocketvlm.quantize.divergence import Divergence

# Of the JSON object. A new field does not change it; a field with another meaning does.
VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a checkpoint takes.

    name: as it was given. path: where it is. quantization: format, bits and groups, None where all is dense. bytes: of
    all tensors as stored, scales included. parameters: numbers of the network. bits_per_weight: of all of them;
    language_bits_per_weight: of the language model's matrices and head; vision_bits_per_weight: of the matrices of
    vision tower and mergers, None without them.
    """

    name: str
    path: str
    quantization: str | None
    bytes: int
    parameters: int
    bits_per_weight: float
    language_bits_per_weight: float
    vision_bits_per_weight: float | None


@dataclass(frozen=True, slots=True)
class KindDivergence:
    """Divergence over the samples of one kind. tokens: of the prompts; divergence.positions of them are counted."""

    kind: str
    samples: int
    tokens: int
    divergence: Divergence

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found = asdict(self)
        return {**{name: found[name] for name in ("kind", "samples", "tokens")}, **found["divergence"]}


@dataclass(frozen=True, slots=True)
class FeatureError:
    """Error of the vision tower's features in one mode.

    relative: norm of the difference over the norm of the reference's features. cosine: mean over features.
    """

    mode: str
    features: int
    relative: float
    cosine: float


@dataclass(frozen=True, slots=True)
class LayerError:
    """Relative error of the hidden rows after a layer. kind: "linear_attention" or "full_attention"."""

    layer: int
    kind: str
    relative: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one model, medians: of a prompt's tokens, and of an answer's."""

    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `compare_models`.

    data: "default", or the path of the samples. precision: of both models. kinds: one row for each kind of sample, then
    `total` over all. features: one row for each mode; empty without views. layers: empty where the networks differ in
    depth or width. notes: what was left out, and why. seconds: of the comparison. reference_speed, candidate_speed:
    None unless measured.
    """

    reference: ModelSize
    candidate: ModelSize
    data: str
    precision: str
    kinds: tuple[KindDivergence, ...]
    total: KindDivergence
    features: tuple[FeatureError, ...]
    layers: tuple[LayerError, ...]
    notes: tuple[str, ...]
    seconds: float
    reference_speed: Speed | None = None
    candidate_speed: Speed | None = None

    @property
    def kl(self) -> float:
        """Mean KL divergence over all positions, in nats."""
        return self.total.divergence.mean

    @property
    def top1(self) -> float:
        """Share of all positions whose most likely token is the same."""
        return self.total.divergence.top1

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, as docs/quantize.md describes it."""
        speeds = {"reference": self.reference_speed, "candidate": self.candidate_speed}
        return {
            "type": "pocketvlm.comparison",
            "version": VERSION,
            "reference": asdict(self.reference),
            "candidate": asdict(self.candidate),
            "data": self.data,
            "precision": self.precision,
            "kinds": [row.to_dict() for row in self.kinds],
            "total": self.total.to_dict(),
            "features": [asdict(row) for row in self.features],
            "layers": [asdict(row) for row in self.layers],
            "speed": {name: asdict(speed) for name, speed in speeds.items() if speed is not None} or None,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }
