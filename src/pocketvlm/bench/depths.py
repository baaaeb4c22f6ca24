"""Long contexts: prefill and decode at a depth, after a prefix that is put into the cache instead of being computed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pocketvlm.backends.ops import KVCache
from pocketvlm.bench.roofline import PRODUCTS, timed
from pocketvlm.bench.scenarios import DECODED, Prompts, Spread, first_token, steps
from pocketvlm.engine import Engine
from pocketvlm.engine.prefix import entry_keys
from pocketvlm.errors import OptionError
from pocketvlm.model.text import DeltaState, state_arrays
from pocketvlm.types import Prompt

ADDED = 512  # tokens that are prefilled at a depth
_COMPUTED = 256  # tokens whose keys, values and state fill the prefix


def prompt_at(engine: Engine, prompts: Prompts, depth: int) -> Prompt:
    """A prompt of `depth` + `ADDED` ids whose first `depth` tokens are a prefix-cache entry.

    The entry's pages are those of a short prompt, over and over: times depend on their number, not on their content.
    Raises OptionError if the prompt does not fit.
    """
    room = engine.max_model_len - ADDED - 4 * DECODED
    if not 1 <= depth <= room:
        raise OptionError(f"depth={depth} is out of range: give 1 to {room}")
    prompt = replace(prompts.prompt(0, depth + ADDED), marks=(depth,))
    memory, keys = engine.memory, entry_keys(prompt, (depth,))
    number, _ = first_token(engine, prompts.prompt(0, _COMPUTED), 2)
    if not engine.scheduler.reserve(memory.pages_for(depth), 1):
        raise OptionError(f"depth={depth}: its state takes {memory.bytes_for(depth) / 2**20:.0f} MiB, give less")
    source, allocation = engine.sequences[number].allocation, memory.open()
    assert source is not None
    memory.extend(allocation, depth)
    whole = source.pages[: _COMPUTED // memory.page_size]
    for array in state_arrays(memory.states, KVCache):
        for index, page in enumerate(allocation.pages):
            array[page] = array[whole[index % len(whole)]]
    engine.prefix.limit = max(engine.prefix.limit, memory.bytes_for(depth))
    copy = engine.prefix.reserve(keys[depth], depth)
    assert copy is not None
    for array, target in zip(state_arrays(memory.states, DeltaState), memory.copy_arrays(copy), strict=True):
        target[0] = array[source.slot].reshape(-1)
    engine.prefix.store(keys[depth], allocation, depth, copy)
    memory.close(allocation)
    engine.release(number)
    return prompt


def run_depth(engine: Engine, prompts: Prompts, depth: int, runs: int) -> dict[str, Any]:
    """Tokens a second at a depth, JSON-ready: of `ADDED` more tokens of the prompt, and of the answer after them.

    bytes: what one token of the answer reads: the matrices, its state, the keys and values. bandwidth_share: these
    bytes a second in relation to the read bandwidth, which is measured before and after.
    """
    measure, memory = engine.model.backend.limits, engine.memory
    before = measure()
    prompt = prompt_at(engine, prompts, depth)
    prefill, decode = [], []
    for run in range(runs + 1):
        number, seconds = first_token(engine, prompt, 3 * DECODED)
        spent = statistics.median(steps(engine, DECODED))
        if run == 0:
            with timed(engine) as proxy:
                engine.step()
            matrices = sum(proxy.spent[name].bytes for name in PRODUCTS if name in proxy.spent)
        else:
            prefill.append(ADDED / seconds)
            decode.append(1.0 / spent)
        engine.release(number)
    tokens = depth + ADDED + DECODED // 2
    total = matrices + memory.slot_bytes + tokens * memory.page_bytes // memory.page_size
    row: dict[str, Any] = {
        "depth": depth,
        "prefill": Spread.of(prefill).report(),
        "decode": Spread.of(decode).report(),
        "bytes": total,
        "state_bytes": memory.bytes_for(tokens),
    }
    after = measure()
    if before is not None and after is not None:
        row["read_bandwidth"] = max(before["read_bandwidth"], after["read_bandwidth"])
        row["bandwidth_share"] = statistics.median(decode) * total / row["read_bandwidth"]
    return row


def measure_depths(
    engine: Engine, side: int, depths: list[int], runs: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The figures of all depths, JSON-ready; progress(what) before each."""
    prompts, rows = Prompts(engine.model.config, side), []
    for depth in depths:
        progress(f"depth {depth}")
        began = time.perf_counter()
        rows.append(run_depth(engine, prompts, depth, runs))
        progress(f"depth {depth}: {time.perf_counter() - began:.0f} s")
    return {"depths": rows}
