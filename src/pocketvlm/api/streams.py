"""Streamed answers of the Python API: the stream of chunks, and the result that it folds to."""

from __future__ import annotations

from collections.abc import Iterator

from pocketvlm.answers.stream import ChoiceStream
from pocketvlm.types import Chunk, Prompt, Result


class Stream(Iterator[Chunk]):
    """The chunks of one answer; reading them runs the engine. The last chunk has finish_reason, usage and timings."""

    def __init__(self, deltas: ChoiceStream, load_seconds: float) -> None:
        self._deltas = deltas
        self._load_seconds = load_seconds

    def __next__(self) -> Chunk:
        """The next chunk. Raises PocketVLMError where the request failed."""
        delta = next(self._deltas)
        if delta.finish_reason is None:
            return Chunk(delta.text, delta.token_ids)
        choice = self._deltas.choice
        timings = choice.timings(self._load_seconds)
        return Chunk(delta.text, delta.token_ids, delta.finish_reason, choice.usage, timings)

    @property
    def prompt(self) -> Prompt:
        """What is answered."""
        return self._deltas.choice.request.prompt

    def cancel(self) -> None:
        """End the answer after the current step; may be called from any thread, and from signal handlers.

        The stream then ends with a chunk whose finish_reason is "abort".
        """
        self._deltas.cancel()

    def close(self) -> None:
        """End the request now; only call this while no thread reads the stream."""
        self._deltas.close()


def fold(chunks: Iterator[Chunk]) -> Result:
    """Fold the chunks of an answer into a result."""
    text: list[str] = []
    ids: list[int] = []
    for chunk in chunks:
        text.append(chunk.text)
        ids.extend(chunk.token_ids)
    assert chunk.finish_reason is not None
    assert chunk.usage is not None
    assert chunk.timings is not None
    return Result("".join(text), tuple(ids), chunk.finish_reason, chunk.usage, chunk.timings)
