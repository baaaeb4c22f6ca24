"""A training sample: a conversation up to one answer of the assistant, and the ids and labels that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.types import Prompt

IGNORED = -100  # label of a token without loss, as PyTorch's cross entropy takes it
THINK_END = "</think>"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One answer to learn.

    messages: what the answer follows, as `processor.messages` reads it; media are absolute paths, URLs, data URIs, or
    lists of paths (the frames of a video), and options may stand in their parts. answer: the text of the assistant;
    where `thinking` is true, its reasoning, `</think>`, an empty line and the text. calls: the tool calls after it.
    place: file and line of the record, for messages. turn: which answer of its record this is, from 0. tools: functions
    that the prompt describes. media: number of images and videos in the messages. extra: the other keys of the record.
    """

    messages: Sequence[Mapping[str, Any]]
    answer: str
    place: str
    tools: Sequence[Mapping[str, Any]] = ()
    thinking: bool = False
    media: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    calls: Sequence[Mapping[str, Any]] = ()
    turn: int = 0
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def content(self) -> str:
        """The answer without its reasoning."""
        return self.answer.split(THINK_END, 1)[1].lstrip("\n") if self.thinking else self.answer


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A sample as numbers. ids: int32 [n], the prompt's ids, then those of the answer and its end token.

    labels: int32 [n], ids where the loss counts and IGNORED elsewhere; labels[i] is the id that row i - 1 predicts.
    prompt: the prompt alone, with its views (pixels as inference gets them) and positions.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    prompt: Prompt
    place: str
