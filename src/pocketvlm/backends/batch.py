"""A batch says which rows belong to which sequence and where their state is; a step is the same on a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
I = TypeVar("I")  # noqa: E741 - an index array of a backend


def _no_ints() -> Ints:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class SubBatch:
    """Neighbouring sequences of a batch with different slots: state passes between sub-batches, not inside one.

    rows: the rows start..stop of the batch. offsets: int32 [n + 1], from 0, and context_lens: int32 [n], as in `Batch`.
    read_slots, write_slots: int32 [n], the slot that holds the state before the rows and the slot that receives the
        state after them; often the same. No sequence writes a slot that another one reads or writes.
    copy_slots: int32 [n], the copy of a slot that receives the state after the rows too, or -1; None: no copies.
    """

    rows: slice
    offsets: Ints
    context_lens: Ints
    read_slots: Ints
    write_slots: Ints
    copy_slots: Ints | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A ragged batch in NumPy arrays: rows of several sequences end to end, without padding.

    Neighbouring sequences may be parts of one sequence, each of which goes on where the one before ends.

    offsets: int32 [sequences + 1]; rows offsets[s]..offsets[s + 1] belong to sequence s, in order, at least one each.
    context_lens: int32 [sequences], tokens of the sequence that its state already holds. Where it is 0, the old content
        of the slot is stale and counts as zero.
    pages: int32 [sequences, n], page table: token t of sequence s lives in page pages[s, t // page_size] at row
        t % page_size; unused entries are -1.
    rotary_positions: int32 [rows], or [3, rows] for time, height and width.
    sub_batches: cover all rows, in order.
    ids: int32 [rows], token ids. logit_rows: int32 [n], rows whose logits are needed.
    adapters: int32 [rows], index of the adapter of each row or -1; None: no row has one.
    """

    offsets: Ints
    context_lens: Ints
    pages: Ints
    page_size: int
    rotary_positions: Ints
    sub_batches: tuple[SubBatch, ...]
    ids: Ints = field(default_factory=_no_ints)
    logit_rows: Ints = field(default_factory=_no_ints)
    adapters: Ints | None = None

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.context_lens)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.offsets[-1])


@dataclass(frozen=True, slots=True, eq=False)
class SubStep(Generic[I]):
    """A `SubBatch` whose index arrays are the backend's; `host` has the same values in NumPy arrays."""

    host: SubBatch
    rows: slice
    offsets: I
    context_lens: I
    read_slots: I
    write_slots: I
    copy_slots: I | None


@dataclass(frozen=True, slots=True, eq=False)
class Step(Generic[I]):
    """A `Batch` whose index arrays are the backend's, prepared once for all layers; `host` has the same values.

    adapter_rows: for each adapter that has rows, its index and those rows, int32 [n]. adapter_logit_rows: the same of
    the logit rows.
    """

    host: Batch
    ids: I
    logit_rows: I
    offsets: I
    context_lens: I
    pages: I
    rotary_positions: I
    sub_steps: tuple[SubStep[I], ...]
    adapter_rows: tuple[tuple[int, I], ...]
    adapter_logit_rows: tuple[tuple[int, I], ...]
    _overwrite: Callable[[I, Ints], None] | None

    def update(self, batch: Batch) -> None:
        """Replace the values of the index arrays by those of `batch`, in place: captured steps read the same addresses.

        `batch` may be `host` itself with changed values. Raises ValueError for a batch of another form: other lengths
        of arrays, other rows of sub-batches or of adapters.
        """
        if batch is not self.host:
            _check_form(self.host, batch)
            for own, new in zip(_arrays(self.host), _arrays(batch), strict=True):
                own[...] = new
        if self._overwrite is not None:
            for array, values in zip(self._device_arrays(), _arrays(self.host), strict=True):
                self._overwrite(array, values)

    def _device_arrays(self) -> Iterator[I]:
        yield from (self.ids, self.logit_rows, self.offsets, self.context_lens, self.pages, self.rotary_positions)
        for part in self.sub_steps:
            yield from (part.offsets, part.context_lens, part.read_slots, part.write_slots)
            if part.copy_slots is not None:
                yield part.copy_slots


def make_step(batch: Batch, upload: Callable[[Ints], I], overwrite: Callable[[I, Ints], None] | None = None) -> Step[I]:
    """The step of a batch. upload: makes an index array of the backend.

    overwrite: changes one in place; None if `upload` shares the memory of NumPy arrays.
    """
    return Step(
        batch,
        upload(batch.ids),
        upload(batch.logit_rows),
        upload(batch.offsets),
        upload(batch.context_lens),
        upload(batch.pages),
        upload(batch.rotary_positions),
        tuple(_sub_step(part, upload) for part in batch.sub_batches),
        _groups(batch.adapters, upload),
        _groups(None if batch.adapters is None else batch.adapters[batch.logit_rows], upload),
        overwrite,
    )


def _groups(adapters: Ints | None, upload: Callable[[Ints], I]) -> tuple[tuple[int, I], ...]:
    """The rows of each adapter, by index."""
    indices = () if adapters is None else np.unique(adapters[adapters >= 0]).tolist()
    return tuple((index, upload(np.flatnonzero(adapters == index).astype(np.int32))) for index in indices)


def _sub_step(part: SubBatch, upload: Callable[[Ints], I]) -> SubStep[I]:
    return SubStep(
        part,
        part.rows,
        upload(part.offsets),
        upload(part.context_lens),
        upload(part.read_slots),
        upload(part.write_slots),
        None if part.copy_slots is None else upload(part.copy_slots),
    )


def _arrays(batch: Batch) -> Iterator[Ints]:
    """All index arrays that an update may change, in the order of `Step._device_arrays`."""
    yield from (batch.ids, batch.logit_rows, batch.offsets, batch.context_lens, batch.pages, batch.rotary_positions)
    for part in batch.sub_batches:
        yield from (part.offsets, part.context_lens, part.read_slots, part.write_slots)
        if part.copy_slots is not None:
            yield part.copy_slots


def _check_form(own: Batch, new: Batch) -> None:
    def form(batch: Batch) -> tuple[object, ...]:
        shapes = tuple(array.shape for array in _arrays(batch))
        own = batch.adapters
        adapters = None if own is None else (own.tolist(), own[batch.logit_rows].tolist())
        return shapes, batch.page_size, tuple(part.rows for part in batch.sub_batches), adapters

    if form(own) != form(new):
        raise ValueError(f"a step of the form {form(own)} cannot be updated with a batch of the form {form(new)}")
