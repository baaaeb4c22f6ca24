"""The contract of a source, and what is found out about one before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pocketvlm.jobs.line import Line, Problem

# Whether the line with this number is finished, so that it need not be read.
Skip = Callable[[int], bool]


class Source(Protocol):
    """Where the lines of a job come from. Reading them again gives the same lines."""

    def digest(self) -> str:
        """Of the content that the lines depend on, as a hex digest. Raises OSError."""
        ...

    def custom_ids(self) -> Iterator[tuple[int, str | None]]:
        """Number and custom_id of each line. Raises InputError and OSError."""
        ...

    def lines(self, skip: Skip) -> Iterator[Line]:
        """The lines in order, but for those to be skipped. Raises InputError and OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first pass finds. count: of lines. last: the largest number. repeated: those whose custom_id is taken."""

    count: int
    last: int
    repeated: frozenset[int] = field(default_factory=frozenset)

    def check(self, line: Line) -> Line:
        """The line, or its problem if an earlier one has the same custom_id."""
        if line.problem is not None or line.number not in self.repeated:
            return line
        message = (
            f"line {line.number}: an earlier line has custom_id={str(line.custom_id)[:80]!r} too: give each its own"
        )
        return Line(line.number, line.custom_id, problem=Problem("duplicate_custom_id", message), size=line.size)


def survey(source: Source) -> Survey:
    """Count the lines of a source and find repeated custom_ids, with 12 bytes of memory for each line.

    A hash of each id is compared first; only ids with equal hashes are compared themselves, in a second pass.
    """
    count, hashes = 0, bytearray()
    last = 0
    for number, custom_id in source.custom_ids():
        count, last = count + 1, number
        if custom_id is not None:
            hashes += hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    ordered = np.sort(np.frombuffer(hashes, np.uint64))
    suspects = frozenset(ordered[:-1][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return Survey(count, last)
    seen: set[str] = set()
    repeated = set()
    for number, custom_id in source.custom_ids():
        if custom_id is None:
            continue
        value = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if int.from_bytes(value, "little") in suspects:
            if custom_id in seen:
                repeated.add(number)
            seen.add(custom_id)
    return Survey(count, last, frozenset(repeated))


def file_digest(path: str) -> str:
    """Digest of a file's content. Raises OSError."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
