"""Token ids of an answer as the model generates it: its control tokens, its tool calls, and the token that ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketvlm.errors import CheckpointError, DataError
from pocketvlm.processor import Processor
from pocketvlm.processor.guard import Segment
from pocketvlm.train.sample import THINK_END

# Spellings that become control tokens in an answer, because a model writes them itself. Others stay text.
WRITTEN = frozenset(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>"),
        *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
        *(f"<|{name}_{side}|>" for name in ("object_ref", "box", "quad") for side in ("start", "end")),
    ]
)
_ENDS = ("eos_token", "bos_token", "pad_token")
_PLACEHOLDERS = ("image_token", "video_token")
# A word that the template is rendered with, to find what it writes around an answer.
_PROBE = "probe"


class AnswerEncoder:
    """Turns answers into ids for one processor. Safe to share between threads."""

    def __init__(self, processor: Processor) -> None:
        """Finds the token that the template writes after an answer. Raises CheckpointError if there is none."""
        self._processor, self._tokenizer = processor, processor.tokenizer
        after = self._after_probe({"role": "assistant", "content": _PROBE})
        end = next((segment for segment in after if segment.control), None)
        if end is None:
            raise CheckpointError(f"{processor.template.where}: no control token ends an answer, so none can be learnt")
        self.end_id = self._tokenizer.control_ids[end.text]
        refused = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", end.text}
        for name in (*_ENDS, *_PLACEHOLDERS):
            try:
                refused.add(self._tokenizer.spelling(name))
            except CheckpointError:  # this tokenizer has no such token
                continue
        self._refused = refused & set(self._tokenizer.control_ids)

    def encode(self, text: str, calls: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of an answer without its end token. Raises DataError for tokens that no answer can have."""
        segments = self._split(text)
        if calls:
            # The template writes an empty line between text and calls, but none after reasoning alone.
            content = text.rpartition(THINK_END)[2]
            message = {"role": "assistant", "content": _PROBE if content.strip() else "", "tool_calls": list(calls)}
            segments += self._without_end(self._after_probe(message))
        ids: list[int] = []
        plain = ""
        for segment in segments:
            if not segment.control:
                plain += segment.text
                continue
            ids += self._tokenizer.encode_plain(plain)
            ids.append(self._tokenizer.control_ids[segment.text])
            plain = ""
        return ids + self._tokenizer.encode_plain(plain)

    def _split(self, text: str) -> list[Segment]:
        found, at = [], 0
        for match in self._tokenizer.spellings.pattern.finditer(text):
            spelling = match.group()
            if spelling in self._refused:
                raise DataError(
                    f"the answer holds the control token {spelling!r}, which no answer can have: remove it (the token "
                    "that ends an answer is added)"
                )
            if spelling in WRITTEN:
                found += [Segment(text[at : match.start()], False), Segment(spelling, True)]
                at = match.end()
        return [*found, Segment(text[at:], False)]

    def _after_probe(self, message: Mapping[str, Any]) -> list[Segment]:
        """What the template writes after the content of an answer."""
        question = {"role": "user", "content": "?"}
        before = "".join(segment.text for segment in self._processor.render([question], enable_thinking=False))
        skipped = len(before) + len(str(message["content"]))
        found = []
        for segment in self._processor.render([question, message], enable_thinking=False, add_generation_prompt=False):
            text = segment.text[skipped:]
            skipped = max(0, skipped - len(segment.text))
            if text:
                found.append(Segment(text, segment.control))
        return found

    def _without_end(self, segments: Sequence[Segment]) -> list[Segment]:
        ids = self._tokenizer.control_ids
        ends = [number for number, each in enumerate(segments) if each.control and ids[each.text] == self.end_id]
        return list(segments[: ends[-1]] if ends else segments)
