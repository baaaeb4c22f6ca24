"""An example as readable text: what the model sees, and which of it is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.train.sample import IGNORED, Example


@dataclass(frozen=True, slots=True)
class Span:
    """Text of neighbouring tokens that all count for the loss, or none of them."""

    text: str
    learnt: bool
    tokens: int


def spans(example: Example, tokenizer: Tokenizer) -> list[Span]:
    """The tokens of an example as text with control tokens; placeholders of a view are one, with their number."""
    labels, ids = example.labels.tolist(), example.ids.tolist()
    found, at = [], 0
    for learnt, group in groupby(labels, lambda label: label != IGNORED):
        count = len(list(group))
        found.append(Span(_text(ids[at : at + count], tokenizer), learnt, count))
        at += count
    return found


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    placeholders = {tokenizer.special.image, tokenizer.special.video}
    parts: list[str] = []
    for token, group in groupby(_runs(ids, placeholders), lambda pair: pair[0]):
        members = [number for _, number in group]
        if token is not None:
            parts.append(f"{tokenizer.decode([token], skip_special_tokens=False)} x {len(members)}")
        else:
            parts.append(tokenizer.decode(members, skip_special_tokens=False))
    return "".join(parts)


def _runs(ids: Sequence[int], placeholders: set[int | None]) -> list[tuple[int | None, int]]:
    """Each id with the placeholder that it is, or None."""
    return [(token if token in placeholders else None, token) for token in ids]
