"""Pages and slots: what is taken, shared, moved and given back, to the byte."""

from __future__ import annotations

import numpy as np
import pytest
from engine_kit import network
from oracle import Oracle

from pocketvlm.backends.ops import Array
from pocketvlm.engine.memory import Holding, Memory
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import write_place


@pytest.fixture(scope="module")
def model(oracle: Oracle) -> MiniCPMV:
    return network(oracle)


def fill(memory: Memory, holding: Holding, value: float) -> None:
    """Put a value that is its own into all that a sequence holds."""
    for array in memory._arrays(type(memory.states[1])):
        for place, page in enumerate(holding.pages):
            array[page] = value + place / 100
    for array in memory._arrays(type(memory.states[0])):
        array[holding.slot] = value


def holds(memory: Memory, holding: Holding, value: float) -> bool:
    pages = [value + place / 100 for place in range(holding.count)]
    same = [
        np.allclose(array[holding.pages].reshape(holding.count, -1).T, pages, rtol=0, atol=1e-5)
        for array in memory._arrays(type(memory.states[1]))
    ]
    slots = [bool((array[holding.slot] == value).all()) for array in memory._arrays(type(memory.states[0]))]
    return all(same) and all(slots)


def slot_of(memory: Memory, holding: Holding) -> list[Array]:
    """A copy of a sequence's slot, with room set aside for it."""
    copies = memory.reserve_copy()
    assert copies is not None
    for copy, array in zip(copies, memory._arrays(type(memory.states[0])), strict=True):
        write_place(memory.model.ops, copy, 0, array[holding.slot : holding.slot + 1].reshape(1, -1))
    return copies


def take(memory: Memory, tokens: int) -> Holding:
    assert memory.secure(memory.pages_for(tokens), 1, last_resort=True)
    holding = memory.open()
    memory.extend(holding, tokens)
    return holding


def test_nothing_is_there_before_it_is_needed(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 40)
    assert memory.allocated == memory.used == 0
    take(memory, 65)
    assert memory.used == memory.bytes_for(65) == 2 * memory.page_bytes + memory.slot_bytes
    assert memory.allocated < 20 * memory.used


def test_contents_stay_while_arrays_grow_and_shrink(model: MiniCPMV) -> None:
    moved = []
    memory = Memory(model, 1 << 40, 8, lambda: moved.append(1))
    held = [take(memory, 8 * n) for n in range(1, 9)]
    for number, holding in enumerate(held):
        fill(memory, holding, number + 1.0)
    many = take(memory, 8 * 500)
    assert moved
    memory.close(many)
    for number in (0, 3, 4):
        memory.close(held[number])
    before = memory.allocated
    memory.limit = memory.used + memory.page_bytes + 5 * memory.slot_bytes
    assert not memory.secure(1, 5)  # four slots are free, and the arrays are too large already
    assert memory.secure(1, 5, last_resort=True)
    assert memory.allocated <= memory.limit < before
    assert all(holds(memory, holding, n + 1.0) for n, holding in enumerate(held) if n not in (0, 3, 4))


def test_a_snapshot_outlives_its_sequence_and_what_goes_on_does_not_touch_it(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 40, 8)
    first = take(memory, 20)
    fill(memory, first, 1.0)
    snapshot = memory.snapshot(first, 20, slot_of(memory, first))
    assert memory.used == memory.bytes_for(20) + memory.slot_bytes
    assert memory.kept == memory.bytes_for(20)
    memory.close(first)
    assert memory.used == memory.kept
    assert memory.secure(2, 2)
    one, two = memory.open(snapshot), memory.open(snapshot)
    assert holds(memory, one, 1.0)
    assert holds(memory, two, 1.0)
    assert one.pages[:2].tolist() == two.pages[:2].tolist() == snapshot.pages[:2].tolist()
    assert len({int(one.pages[2]), int(two.pages[2]), int(snapshot.pages[2])}) == 3
    memory.drop(snapshot)
    fill(memory, two, 2.0)
    assert memory.used == 4 * memory.page_bytes + 2 * memory.slot_bytes
    memory.close(one)
    memory.close(two)
    assert memory.used == 0


def test_secure_keeps_the_limit_and_uses_it_fully(model: MiniCPMV) -> None:
    plain = Memory(model, 0, 8)
    limit = 30 * plain.page_bytes + 2 * plain.slot_bytes
    memory = Memory(model, limit, 8)
    assert memory.feasible(30)
    assert not memory.feasible(31 + int(plain.slot_bytes // plain.page_bytes) + 1)
    take(memory, 8 * 20)
    take(memory, 8 * 10)
    assert memory.used == memory.allocated == limit
    assert not memory.secure(1, 0, last_resort=True)
    assert not memory.secure(0, 1, last_resort=True)
    assert memory.reserve_copy() is None


def test_a_copy_finds_room_in_free_pages(model: MiniCPMV) -> None:
    plain = Memory(model, 0, 8)
    memory = Memory(model, 100 * plain.page_bytes + 2 * plain.slot_bytes, 8)
    long, short = take(memory, 8 * 80), take(memory, 8 * 20)
    fill(memory, short, 3.0)
    memory.close(long)
    assert memory.allocated == memory.limit
    copies = slot_of(memory, short)
    assert memory.allocated <= memory.limit
    assert holds(memory, short, 3.0)
    memory.snapshot(short, 160, copies)
    assert memory.allocated <= memory.limit


def prepare(memory: Memory, limit: int) -> None:
    """All that `Memory.preallocate` would do."""
    while memory.can_preallocate(limit):
        memory.preallocate(limit)


def test_dropped_copies_and_prepared_ones_are_used_again(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 30, 8)
    holding = take(memory, 20)
    fill(memory, holding, 3.0)
    snapshot = memory.snapshot(holding, 20, slot_of(memory, holding))
    prepare(memory, 0)
    held = memory.allocated
    memory.drop(snapshot)
    assert memory.allocated == held
    again = memory.reserve_copy()
    assert again is not None
    assert [id(copy) for copy in again] == [id(copy) for copy in snapshot.copies]
    memory.reserved = 0
    prepare(memory, memory.slot_bytes * 3)  # as many as may ever be kept
    assert memory.allocated == held + 2 * memory.slot_bytes
    for _ in range(3):
        copies = memory.reserve_copy()
        assert copies is not None
        assert not any(copy.any() for copy in copies)
    assert memory.allocated == held + 2 * memory.slot_bytes


def test_pages_are_added_before_they_are_needed(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 30, 8)
    one = take(memory, 8 * 20)
    fill(memory, one, 1.0)
    prepare(memory, 0)
    ready = memory.allocated
    assert ready >= memory.used + 16 * memory.page_bytes
    assert memory.secure(16, 0)
    assert memory.allocated == ready
    assert holds(memory, one, 1.0)
    full = Memory(model, 60 * memory.page_bytes + 2 * memory.slot_bytes, 8)
    take(full, 8 * 20)
    take(full, 8 * 20)
    assert not full.can_preallocate(0)


def test_sequences_get_the_room_of_spare_copies(model: MiniCPMV) -> None:
    plain = Memory(model, 0, 8)
    memory = Memory(model, 16 * plain.page_bytes + 3 * plain.slot_bytes, 8)
    take(memory, 8 * 10)
    prepare(memory, 1 << 40)
    assert memory.limit - memory.slot_bytes < memory.allocated <= memory.limit
    assert memory.secure(0, 1)
    memory.open()
    assert memory.used == 10 * memory.page_bytes + 2 * memory.slot_bytes
    assert memory.allocated <= memory.limit
