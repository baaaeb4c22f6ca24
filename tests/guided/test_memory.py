"""Memory over many different schemas is bounded, in this process and in the helper's."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from guided_kit import END_IDS, VOCAB, allowed

from pocketvlm.guided import Grammars
from pocketvlm.guided import grammars as module
from pocketvlm.guided.trial import resident, return_memory
from pocketvlm.processor import Tokenizer

MB = 1 << 20
pytestmark = pytest.mark.skipif(resident() == 0, reason="the system does not say how much memory a process has")


def schema(number: int) -> dict[str, Any]:
    """A schema like no other, some of which take a megabyte."""
    draw = random.Random(number)
    leaves: list[dict[str, Any]] = [
        {"type": "string", "maxLength": draw.randrange(1, 3000)},
        {"type": "integer", "multipleOf": draw.randrange(2, 1500)},
        {"enum": [f"value {draw.randrange(10**6)}" for _ in range(draw.randrange(1, 300))]},
        {"type": "string", "pattern": f"^[a-z]{{{draw.randrange(1, 60)}}}-\\d+(x|y|zz)*$"},
        {"type": "number", "minimum": draw.random(), "maximum": 10 + draw.random()},
    ]
    properties = {f"p{draw.randrange(10**9)}": draw.choice(leaves) for _ in range(draw.randrange(1, 8))}
    return {"type": "object", "properties": properties, "required": list(properties)}


def use(grammars: Grammars, number: int) -> None:
    """Compile a schema and write some tokens under it."""
    draw = random.Random(number)
    constraint = grammars.json_schema(schema(number)).constraint()
    for _ in range(12):
        choice = [one for one in allowed(constraint) if one not in END_IDS]
        if not choice:
            return
        constraint.accept(draw.choice(choice))


def peak(pid: int | str = "self") -> int:
    """The most bytes that a process has had in memory."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def grown(tokenizer: Tokenizer, count: int) -> tuple[int, int]:
    """By how much this process's peak and the helper's grow from the first tenth of some schemas to the last."""
    made = Grammars(tokenizer, END_IDS, VOCAB)
    try:
        with ThreadPoolExecutor(8) as pool:
            first = range(count // 10)
            list(pool.map(lambda number: use(made, number), first))
            process = made._trial._process
            assert process is not None
            here, there = resident(), peak(process.pid)
            list(pool.map(lambda number: use(made, number), range(len(first), count)))
            return resident() - here, peak(process.pid) - there
    finally:
        made.close()


def test_memory_over_hundreds_of_schemas(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_BYTES", 4 * MB)
    monkeypatch.setattr(module, "EVICTED_BYTES", 4 * MB)
    here, there = grown(tokenizer, 300)
    assert here < 16 * MB
    assert there < 16 * MB


@pytest.mark.long
def test_memory_over_ten_thousand_schemas(tokenizer: Tokenizer) -> None:
    return_memory()
    before = resident()
    here, there = grown(tokenizer, 10_000)
    print(f"VmRSS {resident() / MB:.0f} MB, VmHWM {peak() / MB:.0f} MB, helper {there / MB:.0f} MB more")
    assert here < 48 * MB
    assert there < 48 * MB
    assert resident() - before < (module.CACHED_BYTES + module.EVICTED_BYTES) * 2


def test_the_cache_is_bounded_by_bytes(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_BYTES", 8 * MB)
    made = Grammars(tokenizer, END_IDS, VOCAB)
    large = [{"enum": [f"{number} {other} {'x' * 40}" for other in range(4000)]} for number in range(4)]
    found = [made.json_schema(one) for one in large]
    assert all(grammar.size > 2 * MB for grammar in found)
    assert sum(grammar.size for grammar in made._cache.values()) <= 8 * MB
    assert found[-1] in made._cache.values()
    made.close()
