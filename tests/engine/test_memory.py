"""Pages and slots: allocated, shared, moved and released, to the byte."""

from __future__ import annotations

import pytest
from engine_kit import KV_CACHES, network
from oracle import Oracle

from pocketvlm.bench.shape import released_config
from pocketvlm.engine.memory import Allocation, Memory, page_bytes
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import write_index


@pytest.fixture(scope="module", params=KV_CACHES)
def model(oracle: Oracle, request: pytest.FixtureRequest) -> MiniCPMV:
    return network(oracle, "int8", request.param)


def page_value(value: float, index: int) -> int:
    """What the page `index` of a sequence is filled with: a number of every type."""
    return (int(value) * 17 + index) % 120


def fill(memory: Memory, allocation: Allocation, value: float) -> None:
    """Fill a sequence's state with a value of its own."""
    for array in memory._arrays(type(memory.states[1])):
        for index, page in enumerate(allocation.pages):
            array[page] = page_value(value, index)
    for array in memory._arrays(type(memory.states[0])):
        array[allocation.slot] = value


def contains(memory: Memory, allocation: Allocation, value: float) -> bool:
    pages = [page_value(value, index) for index in range(allocation.count)]
    same = [
        bool((pages == array[allocation.pages].reshape(allocation.count, -1).T).all())
        for array in memory._arrays(type(memory.states[1]))
    ]
    slots = [bool((array[allocation.slot] == value).all()) for array in memory._arrays(type(memory.states[0]))]
    return all(same) and all(slots)


def slot_of(memory: Memory, allocation: Allocation) -> int:
    """A copy of a sequence's slot, in arrays that were reserved for it."""
    copy = memory.reserve_copy()
    assert copy is not None
    for target, array in zip(memory.copy_arrays(copy), memory._arrays(type(memory.states[0])), strict=True):
        write_index(memory.model.backend, target, 0, array[allocation.slot : allocation.slot + 1].reshape(1, -1))
    return copy


def allocate(memory: Memory, tokens: int) -> Allocation:
    assert memory.reserve(memory.pages_for(tokens), 1, last_resort=True)
    allocation = memory.open()
    memory.extend(allocation, tokens)
    return allocation


def test_nothing_is_allocated_before_it_is_needed(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 40)
    assert memory.allocated == memory.used == 0
    allocate(memory, 65)
    assert memory.used == memory.bytes_for(65) == 2 * memory.page_bytes + memory.slot_bytes
    assert memory.allocated < 20 * memory.used


def test_contents_stay_while_arrays_grow_and_shrink(model: MiniCPMV) -> None:
    moved = []
    memory = Memory(model, 1 << 40, 8, lambda: moved.append(1))
    held = [allocate(memory, 8 * n) for n in range(1, 9)]
    for number, allocation in enumerate(held):
        fill(memory, allocation, number + 1.0)
    many = allocate(memory, 8 * 500)
    assert moved
    memory.close(many)
    for number in (0, 3, 4):
        memory.close(held[number])
    before = memory.allocated
    memory.limit = memory.used + memory.page_bytes + 5 * memory.slot_bytes
    assert not memory.reserve(1, 5)  # four slots are free, and the arrays are too large already
    assert memory.reserve(1, 5, last_resort=True)
    assert memory.allocated <= memory.limit < before
    assert all(contains(memory, allocation, n + 1.0) for n, allocation in enumerate(held) if n not in (0, 3, 4))


def test_an_entry_outlives_its_sequence_and_resumed_sequences_do_not_change_it(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 40, 8)
    first = allocate(memory, 20)
    fill(memory, first, 1.0)
    entry = memory.store(first, 20, slot_of(memory, first))
    assert memory.used == memory.bytes_for(20) + memory.slot_bytes
    assert memory.cached == memory.bytes_for(20)
    memory.close(first)
    assert memory.used == memory.cached
    assert memory.reserve(2, 2)
    one, two = memory.open(entry), memory.open(entry)
    assert contains(memory, one, 1.0)
    assert contains(memory, two, 1.0)
    assert one.pages[:2].tolist() == two.pages[:2].tolist() == entry.pages[:2].tolist()
    assert len({int(one.pages[2]), int(two.pages[2]), int(entry.pages[2])}) == 3
    memory.drop(entry)
    fill(memory, two, 2.0)
    assert memory.used == 4 * memory.page_bytes + 2 * memory.slot_bytes
    memory.close(one)
    memory.close(two)
    assert memory.used == 0


def test_reserve_respects_the_limit_and_uses_it_fully(model: MiniCPMV) -> None:
    plain = Memory(model, 0, 8)
    limit = 30 * plain.page_bytes + 2 * plain.slot_bytes
    memory = Memory(model, limit, 8)
    assert memory.feasible(30)
    assert not memory.feasible(31 + int(plain.slot_bytes // plain.page_bytes) + 1)
    allocate(memory, 8 * 20)
    allocate(memory, 8 * 10)
    assert memory.used == memory.allocated == limit
    assert not memory.reserve(1, 0, last_resort=True)
    assert not memory.reserve(0, 1, last_resort=True)
    assert memory.reserve_copy() is None


def test_a_copy_finds_room_in_free_pages(model: MiniCPMV) -> None:
    plain = Memory(model, 0, 8)
    memory = Memory(model, 100 * plain.page_bytes + 2 * plain.slot_bytes, 8)
    long, short = allocate(memory, 8 * 80), allocate(memory, 8 * 20)
    fill(memory, short, 3.0)
    memory.close(long)
    assert memory.allocated == memory.limit
    copies = slot_of(memory, short)
    assert memory.allocated <= memory.limit
    assert contains(memory, short, 3.0)
    memory.store(short, 160, copies)
    assert memory.allocated <= memory.limit


def prepare(memory: Memory, limit: int) -> None:
    """All that `Memory.preallocate` would do."""
    while memory.can_preallocate(limit):
        memory.preallocate(limit)


def test_dropped_and_preallocated_copies_are_reused(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 30, 8)
    allocation = allocate(memory, 20)
    fill(memory, allocation, 3.0)
    entry = memory.store(allocation, 20, slot_of(memory, allocation))
    prepare(memory, 0)
    held = memory.allocated
    memory.drop(entry)
    assert memory.allocated == held
    again = memory.reserve_copy()
    assert again is not None
    assert again == entry.copy
    memory.release_copies()
    prepare(memory, memory.slot_bytes * 3)  # as many as may ever be cached
    assert memory.allocated == held + 2 * memory.slot_bytes
    for _ in range(3):
        copies = memory.reserve_copy()
        assert copies is not None
        assert not any(array.any() for array in memory.copy_arrays(copies))
    assert memory.allocated == held + 2 * memory.slot_bytes


def test_pages_are_preallocated(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 30, 8)
    one = allocate(memory, 8 * 20)
    fill(memory, one, 1.0)
    prepare(memory, 0)
    ready = memory.allocated
    assert ready >= memory.used + 16 * memory.page_bytes
    assert memory.reserve(16, 0)
    assert memory.allocated == ready
    assert contains(memory, one, 1.0)
    full = Memory(model, 60 * memory.page_bytes + 2 * memory.slot_bytes, 8)
    allocate(full, 8 * 20)
    allocate(full, 8 * 20)
    assert not full.can_preallocate(0)


def test_sequences_get_the_memory_of_spare_copies(model: MiniCPMV) -> None:
    plain = Memory(model, 0, 8)
    memory = Memory(model, 16 * plain.page_bytes + 3 * plain.slot_bytes, 8)
    allocate(memory, 8 * 10)
    prepare(memory, 1 << 40)
    assert memory.limit - memory.slot_bytes < memory.allocated <= memory.limit
    assert memory.reserve(0, 1)
    memory.open()
    assert memory.used == 10 * memory.page_bytes + 2 * memory.slot_bytes
    assert memory.allocated <= memory.limit


def test_bytes_of_the_released_context() -> None:
    """Keys and values of 262144 tokens, by the engine's own numbers: 3 GiB in bfloat16, about half of it in int8."""
    config = released_config().text
    tokens = config.max_position_embeddings
    assert tokens == 262_144
    pages = tokens // 64
    assert pages * page_bytes(config, 64, "f32") == 6 << 30
    assert pages * page_bytes(config, 64, "bf16") == 3 << 30 <= 3.3 * 2**30
    assert pages * page_bytes(config, 64, "int8") == (3 << 29) * 260 // 256
    assert page_bytes(config, 1, "bf16") == 12_288


def test_arrays_have_the_bytes_that_are_counted(model: MiniCPMV) -> None:
    memory = Memory(model, 1 << 30, 8)
    allocate(memory, 8 * 20)
    kind = type(memory.states[1])
    pages = len(memory._running)
    assert sum(array.nbytes for array in memory._arrays(kind)) == pages * memory.page_bytes
    assert memory.page_bytes == page_bytes(model.config.text, 8, model.backend.scheme.kv_cache)
