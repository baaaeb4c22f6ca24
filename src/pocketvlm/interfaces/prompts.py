"""Prompts of token ids are built here: raw ones, and continuations of an earlier conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import PromptError
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import Prompt, RotaryPositions

_END_OF_TURN = "<|im_end|>"


def raw_prompt(ids: Sequence[int], text: str, tokenizer: Tokenizer, vocab_size: int) -> Prompt:
    """A prompt without template or images. Raises PromptError."""
    return Prompt(_checked(ids, "prompt", tokenizer, vocab_size), (), (), text)


def continued(
    before: Sequence[int], prompt: Prompt, tokenizer: Tokenizer, ends: Sequence[int], vocab_size: int
) -> Prompt:
    """A prompt with the ids of an earlier prompt and its answer before its own. ends: ids that end an answer.

    An answer that was cut off is ended first, as the template would. Raises PromptError.
    """
    ids = _checked(before, "context", tokenizer, vocab_size)
    ended = before[-1] in ends
    between = tokenizer.encode_template("\n" if ended else f"{_END_OF_TURN}\n")
    shift = len(ids) + len(between)
    return replace(
        prompt,
        ids=np.concatenate([ids, np.array(between, dtype=np.int32), prompt.ids]),
        views=tuple(replace(view, start=view.start + shift) for view in prompt.views),
        marks=tuple(mark + shift for mark in prompt.marks),
        positions=None if prompt.positions is None else _shifted(prompt.positions, shift),
    )


def _shifted(positions: RotaryPositions, shift: int) -> RotaryPositions:
    """Positions after `shift` tokens of text, which take as many positions."""
    before = np.tile(np.arange(shift, dtype=np.int32), (3, 1))
    return replace(positions, values=np.concatenate([before, positions.values + np.int32(shift)], axis=1))


def _checked(ids: Sequence[int], field: str, tokenizer: Tokenizer, vocab_size: int) -> NDArray[np.int32]:
    special = tokenizer.special
    array = np.array(ids, dtype=np.int64)
    if ((array < 0) | (array >= vocab_size)).any():
        raise PromptError(f"{field}: a token id is outside the vocabulary")
    if special.image in ids or (special.video is not None and special.video in ids):
        raise PromptError(f"{field}: placeholders of images stand for nothing here: use /v1/chat/completions")
    return array.astype(np.int32)
