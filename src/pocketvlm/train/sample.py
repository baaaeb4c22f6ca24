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


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One answer to learn.

    messages: what the answer follows, as `processor.messages` reads it; media are absolute paths or data URIs, and
    options may stand in their parts. answer: the text of the assistant, thinking included where `thinking` is true.
    place: file and line (or index) of the record, for messages. tools: functions that the prompt describes.
    """

    messages: Sequence[Mapping[str, Any]]
    answer: str
    place: str
    tools: Sequence[Mapping[str, Any]] = ()
    thinking: bool = False
    media: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))  # number of images and videos


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
