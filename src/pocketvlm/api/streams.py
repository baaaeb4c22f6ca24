"""Answers of the Python API as they come: the stream of chunks, and the result that it folds to."""

from __future__ import annotations

from collections.abc import Iterator

from pocketvlm.answers.stream import ChoiceStream
from pocketvlm.types import Chunk, Result


class Stream(Iterator[Chunk]):
    """The chunks of one answer as they come; the work runs as they are read. The last one has finish_reason, usage and
    timings.
    """

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

    def cancel(self) -> None:
        """End the answer after the step that runs; may be called from any thread, and from signal handlers.

        The stream then ends with a chunk whose finish_reason is "abort".
        """
        self._deltas.cancel()

    def close(self) -> None:
        """End the request now; only while nobody reads the stream."""
        self._deltas.close()


def fold(chunks: Iterator[Chunk]) -> Result:
    """A whole answer out of its chunks."""
    text: list[str] = []
    ids: list[int] = []
    for chunk in chunks:
        text.append(chunk.text)
        ids.extend(chunk.token_ids)
    assert chunk.finish_reason is not None
    assert chunk.usage is not None
    assert chunk.timings is not None
    return Result("".join(text), tuple(ids), chunk.finish_reason, chunk.usage, chunk.timings)
