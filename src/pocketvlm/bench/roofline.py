"""The roofline compares the engine's speed with the machine's limits and times each operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

from pocketvlm.backends.ops import Ops
from pocketvlm.bench.scenarios import DECODED, SHORT, Prompts, first_token
from pocketvlm.engine import Engine

# Operations with products, and which of their arguments are weights.
PRODUCTS = {
    "linear": (1,),
    "linears": (1,),
    "rms_norm_linears": (3,),
    "rms_norm_swiglu": (3, 4),
    "layer_norm_linears": (3,),
    "gated_rms_norm_linear": (4,),
    "sigmoid_gate_linear": (2,),
}
OPERATIONS = Ops.__abstractmethods__ | {*PRODUCTS}


@dataclass(slots=True)
class Spent:
    """The cost of the calls of one operation: seconds, bytes of weights read, multiplications and additions."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    operations: int = 0


class Timed:
    """The operations of a backend, each timed and none captured. Everything else is the backend's."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.spent: dict[str, Spent] = {}

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
        return work(), work

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ops, name)
        if name not in OPERATIONS:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            out = found(*args, **kwargs)
            entry = self.spent.setdefault(name, Spent())
            entry.seconds += time.perf_counter() - began
            entry.calls += 1
            if name in PRODUCTS:
                for argument in (args[index] for index in PRODUCTS[name]):
                    for weight in argument if isinstance(argument, list | tuple) else (argument,):
                        entry.bytes += weight.nbytes
                        entry.operations += 2 * len(args[0]) * weight.inputs * weight.outputs
            return out

        return call


@contextmanager
def timed(engine: Engine) -> Iterator[Timed]:
    """The engine's model with timed operations, for as long as this lasts."""
    plain = engine.model.backend
    proxy = Timed(plain)
    engine.model.backend = cast(Any, proxy)
    engine.runner.decoding.forget()
    try:
        yield proxy
    finally:
        engine.model.backend = plain
        engine.runner.decoding.forget()


def _phase(engine: Engine, work: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Seconds of the work in a normal run, and of each of its operations in a run that times them one by one."""
    work()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    whole = (time.perf_counter() - began) / repeats
    with timed(engine) as proxy:
        for _ in range(repeats):
            work()
    parts = {name: asdict(spent) for name, spent in proxy.spent.items()}
    for part in parts.values():
        for key in part:
            part[key] /= repeats
    return {"seconds": whole, "operations": dict(sorted(parts.items(), key=lambda item: -item[1]["seconds"]))}


def roofline(engine: Engine, side: int, progress: Callable[[str], None]) -> dict[str, Any] | None:
    """The machine's limits, measured now, and the phases compared with them, JSON-ready; None if the backend has none.

    limits: read_bandwidth in bytes a second; int8, float32 and perhaps bfloat16 in operations a second (a
    multiplication and an addition are two). Each is the higher of two measurements, before and after the phases: a
    shared machine may be slow during one of them. phases: "decode" (one token), "prefill" (512 tokens), "vision" (one
    view in 16x).
    """
    progress("limits of the machine")
    measure = engine.model.backend.limits
    before = measure()
    if before is None:
        return None
    prompts = Prompts(engine.model.config, side, seed=1)
    long, short, view = prompts.prompt(0, 512), prompts.prompt(0, SHORT), prompts.view(0)
    progress("where the time goes")
    number, _ = first_token(engine, short, 4 * DECODED)
    decode = _phase(engine, engine.step, DECODED)
    engine.release(number)
    prefill = _phase(engine, lambda: engine.release(first_token(engine, long)[0]), 2)
    vision = _phase(engine, lambda: engine.runner.encode((view,)), 2)
    limits = {name: max(rate, before[name]) for name, rate in (measure() or before).items()}
    for phase in (decode, prefill, vision):
        products = [phase["operations"][name] for name in PRODUCTS if name in phase["operations"]]
        spent = sum(p["seconds"] for p in products)
        phase["bytes"] = sum(p["bytes"] for p in products)
        phase["bandwidth_share"] = phase["bytes"] / phase["seconds"] / limits["read_bandwidth"]
        phase["products_share"] = sum(p["operations"] for p in products) / spent / limits["int8"] if spent else 0.0
    return {"limits": limits, "phases": {"decode": decode, "prefill": prefill, "vision": vision}}
