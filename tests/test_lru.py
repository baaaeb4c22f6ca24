"""The bounded mapping, compared with a plain list of the used keys, and the nearest name."""

from __future__ import annotations

import random

import pytest

from pocketvlm.lru import LRU
from pocketvlm.suggest import nearest


@pytest.mark.parametrize("seed", range(20))
def test_those_used_longest_ago_are_evicted(seed: int) -> None:
    random_ = random.Random(seed)
    cache: LRU[int, int] = LRU(20, int)
    entries: list[tuple[int, int]] = []  # those used last at the end
    for _ in range(300):
        key, size = random_.randrange(12), random_.randrange(25)
        there = [entry for entry in entries if entry[0] == key]
        if random_.random() < 0.5:
            assert cache.use(key) == (there[0][1] if there else None)
            entries = [entry for entry in entries if entry[0] != key] + there
        elif random_.random() < 0.2:
            assert cache.pop(key) == (there[0][1] if there else None)
            entries = [entry for entry in entries if entry[0] != key]
        else:
            entries = [entry for entry in entries if entry[0] != key] + [(key, size)]
            evicted = []
            while sum(value for _, value in entries) > 20:
                evicted.append(entries.pop(0))
            assert cache.put(key, size) == evicted
        assert list(cache.items()) == entries
        assert cache.total == sum(value for _, value in entries)


def test_reading_is_no_use() -> None:
    cache: LRU[str, int] = LRU(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert "a" in cache
    assert (cache["a"], cache.get("a"), cache.get("c")) == (1, 1, None)
    assert cache.put("c", 3) == [("a", 1)]


def test_without_a_limit_only_the_user_evicts() -> None:
    cache: LRU[int, int] = LRU()
    for number in range(100):
        assert cache.put(number, number) == []
    assert cache.pop_oldest() == (0, 0)
    cache.clear()
    assert (len(cache), cache.total) == (0, 0)
    with pytest.raises(KeyError):
        cache.pop_oldest()


def test_the_nearest_name() -> None:
    assert nearest("temprature", ("top_p", "temperature")) == "temperature"
    assert nearest("xyz", {"temperature": 1}) is None
    assert nearest("a", ()) is None
