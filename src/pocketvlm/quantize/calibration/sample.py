"""`Sample` is one prompt of a calibration or held-out set, with its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pocketvlm.types import Prompt, RotaryPositions

Kind = Literal["text", "image 16x", "image 4x", "clip"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_AFTER_VIEWS = 256  # tokens of words after the last view that a cut leaves


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One prompt. kind: what is in it; a prompt with images in both modes counts as the mode of its first view."""

    kind: Kind
    prompt: Prompt

    @classmethod
    def of(cls, prompt: Prompt) -> Sample:
        """A prompt with the kind that its media say."""
        if prompt.videos:
            return cls("clip", prompt)
        if not prompt.views:
            return cls("text", prompt)
        return cls("image 4x" if prompt.views[0].downsample_mode == "4x" else "image 16x", prompt)


def cut(prompt: Prompt, length: int) -> Prompt | None:
    """The first `length` tokens of a prompt; None where that would cut through its last view."""
    if len(prompt.ids) <= length:
        return prompt
    if prompt.views and prompt.views[-1].start + prompt.views[-1].tokens > length:
        return None
    positions = prompt.positions
    if positions is not None:
        positions = RotaryPositions(positions.values[:, :length], positions.delta)
    return replace(prompt, ids=prompt.ids[:length], positions=positions)


def fitted(prompt: Prompt, length: int, longest: int) -> Prompt | None:
    """The first `length` tokens of a prompt, or up to `longest` where its views end later; None if they do not fit."""
    found = cut(prompt, length)
    if found is None:
        end = prompt.views[-1].start + prompt.views[-1].tokens
        found = cut(prompt, min(longest, end + _AFTER_VIEWS))
    return found


def thinned(samples: Sequence[Sample], tokens: int) -> list[Sample]:
    """Samples of about so many tokens in all, chosen evenly of each kind, and at least one of each kind."""
    total = sum(len(sample.prompt.ids) for sample in samples)
    if total <= tokens:
        return list(samples)
    found: set[int] = set()
    for kind in KINDS:
        some = [sample for sample in samples if sample.kind == kind]
        share = sum(len(sample.prompt.ids) for sample in some) / total
        found |= {id(sample) for sample in _evenly(some, int(share * tokens))}
    return [sample for sample in samples if id(sample) in found]


def within(samples: list[Sample], tokens: int, length: int) -> list[Sample]:
    """Samples cut to at most `length` tokens each, and about `tokens` in all, chosen evenly from the whole list."""
    short = [replace(sample, prompt=prompt) for sample in samples if (prompt := cut(sample.prompt, length)) is not None]
    return _evenly(short, tokens)


def _evenly(samples: list[Sample], tokens: int) -> list[Sample]:
    total = sum(len(sample.prompt.ids) for sample in samples)
    if total <= tokens:
        return samples
    chosen: list[Sample] = []
    taken = seen = 0
    for sample in samples:
        size = len(sample.prompt.ids)
        seen += size
        if taken + size <= tokens * seen / total or not chosen:
            chosen.append(sample)
            taken += size
    return chosen
