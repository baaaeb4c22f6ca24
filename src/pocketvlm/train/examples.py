"""`ExampleMaker` turns samples into ids, labels and pixels, with the processor that inference uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pocketvlm.errors import DataError, OptionError, PocketVLMError
from pocketvlm.options.media import IMAGE_OPTIONS, MEDIA_OPTIONS, ImageOptions, VideoOptions
from pocketvlm.options.option import refuse_unknown
from pocketvlm.options.request import PROCESSOR_OPTIONS
from pocketvlm.processor import Processor
from pocketvlm.processor.pending_image import Pending
from pocketvlm.train.answers import AnswerEncoder
from pocketvlm.train.sample import IGNORED, THINK_END, Example, Sample
from pocketvlm.types import Prompt

_OPTIONS = tuple(name for name in PROCESSOR_OPTIONS if name != "tools")
_THINK = "<think>"


class TooLongError(DataError):
    """A sample has more tokens than `max_length`."""


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of a sample. prompt: with `media`, those that stand for features; answer: with its end token."""

    prompt: int
    answer: int
    media: int

    @property
    def total(self) -> int:
        """Prompt and answer."""
        return self.prompt + self.answer


class ExampleMaker:
    """Makes the examples of one checkpoint with one set of options. Safe to share between threads."""

    def __init__(
        self,
        processor: Processor,
        *,
        max_length: int | None = None,
        options: Mapping[str, Any] | None = None,
        cut_answers: bool = False,
    ) -> None:
        """max_length: tokens of prompt and answer together (None: any number). options: of images, videos and the
        template, as for a request (`options/`); enable_thinking None follows each sample, False drops reasoning.
        cut_answers: an answer is cut where max_length ends, and then has no end token. Raises OptionError.
        """
        self.options = {name: value for name, value in (options or {}).items() if value is not None}
        refuse_unknown(self.options, _OPTIONS, "options: ")
        if max_length is not None and (isinstance(max_length, bool) or max_length < 2):
            raise OptionError(f"max_length={max_length!r} is out of range: give a number of tokens, at least 2")
        self.processor, self.max_length, self.cut_answers = processor, max_length, cut_answers
        ImageOptions.resolve(processor.config, {k: v for k, v in self.options.items() if k in IMAGE_OPTIONS})
        VideoOptions.resolve(processor.config, {k: v for k, v in self.options.items() if k in MEDIA_OPTIONS})
        self._thinking = self.options.pop("enable_thinking", None)
        if self._thinking not in (None, True, False):
            raise OptionError(f"enable_thinking={self._thinking!r} is not supported: give true, false or leave it out")
        self._answers = AnswerEncoder(processor)

    def __call__(self, sample: Sample, pending: bool = False) -> Example:
        """The example of a sample. Raises DataError that names its place; TooLongError if it is too long.

        pending: the views of images are pending (`Processor.__call__`), for a loop that caches features by digest.
        """
        prompt, answer = self._parts(sample, "digest" if pending else None)
        length = Length(len(prompt.ids), len(answer), prompt.image_tokens)
        self._check(sample, length)
        answer = answer[: self.cut(length).answer]
        ids = np.concatenate([prompt.ids, np.array(answer, dtype=np.int32)])
        labels = ids.copy()
        labels[: length.prompt] = IGNORED
        return Example(ids, labels, prompt, sample.place)

    def measure(self, sample: Sample) -> Length:
        """The tokens of a sample, however many. Images are read for their sizes alone. Raises DataError."""
        prompt, answer = self._parts(sample, "size")
        return Length(len(prompt.ids), len(answer), prompt.image_tokens)

    def fits(self, length: Length) -> bool:
        """Whether a sample of this length becomes an example."""
        used = length.prompt + 1 if self.cut_answers else length.total
        return self.max_length is None or used <= self.max_length

    def cut(self, length: Length) -> Length:
        """The length of the example: the answer ends where max_length does."""
        if self.max_length is None or length.total <= self.max_length:
            return length
        return replace(length, answer=self.max_length - length.prompt)

    def _check(self, sample: Sample, length: Length) -> None:
        if not self.fits(length):
            raise TooLongError(f"{sample.place}: {self.too_long(length)}")

    def too_long(self, length: Length) -> str:
        """Why a sample of this length is left out, and the ways out."""
        media = f", {length.media} of them of images and videos" if length.media else ""
        ways = "raise max_length, give a smaller max_slice_nums or max_num_frames, or shorten the texts"
        return (
            f"{length.total} tokens (question {length.prompt}{media}; answer {length.answer}) are more than "
            f"max_length={self.max_length}: {ways}"
        )

    def _parts(self, sample: Sample, pending: Pending | None) -> tuple[Prompt, list[int]]:
        """The prompt and the ids of answer and end token."""
        thinking = sample.thinking if self._thinking is None else bool(self._thinking)
        try:
            if thinking and not sample.thinking:
                raise DataError(
                    "enable_thinking=True, but the answer has no reasoning: add it, or leave the option out"
                )
            prompt = self.processor(
                sample.messages,
                tools=list(sample.tools) or None,
                enable_thinking=thinking,
                pending=pending,
                **self.options,
            )
            text = sample.answer if thinking else sample.content
            opened = prompt.text.rstrip().endswith(_THINK)
            if opened and not thinking:
                raise DataError(
                    f"the chat template opens reasoning, but the answer has none: write <think>...{THINK_END} before it"
                )
            if thinking and not opened:
                text = f"{_THINK}\n{text}"
            return prompt, [*self._answers.encode(text, sample.calls), self._answers.end_id]
        except PocketVLMError as error:
            raise DataError(f"{sample.place}: {error}") from error
