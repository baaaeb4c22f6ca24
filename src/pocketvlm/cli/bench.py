"""The command `pocketvlm bench` measures a model's speed on this machine against the machine's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options
from pocketvlm.cli.options import FLAG, INPUT, OUTPUT, option
from pocketvlm.errors import OptionError
from pocketvlm.options.load import DEFAULT_PREFILL_CHUNK, LoadOptions

if TYPE_CHECKING:
    from pocketvlm.engine import Engine

EPILOG = """
Examples:

  pocketvlm bench
  pocketvlm bench --random --weights int4
  pocketvlm bench --random --weights int4 --depth 2048 --depth 8192
  pocketvlm bench openbmb/MiniCPM-V-4.6 --runs 9 --json
  pocketvlm bench serve --url http://127.0.0.1:8000/v1

Close everything else first: figures of a busy machine say little. The last line of the output is one JSON object.
"""


@options.takes(
    *options.load_options("revision", "mmproj", "weights", "precision", "kv_cache_dtype", "threads", "prefill_chunk")
)
def bench(
    model: Annotated[str, options.model_argument("BENCH")] = options.DEFAULT_MODEL,
    random: Annotated[
        bool, option("--random", FLAG, panel=INPUT, help="The released model's shape with random weights: no download.")
    ] = False,
    depth: Annotated[
        list[int] | None,
        option(
            "--depth",
            "N",
            panel=INPUT,
            help="Instead of the usual rows: prefill and decode after so many tokens. Repeatable.",
        ),
    ] = None,
    runs: Annotated[int, option("--runs", "N", panel=OUTPUT, help="Counted runs of each row; medians are shown.")] = 5,
    as_json: Annotated[bool, option("--json", FLAG, panel=OUTPUT, help="Only the JSON object.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Time a model on this machine: first token, decoding, vision, memory, and the share of the machine's limits.

    The prompts are random ids and random pixels, so no answer is shown, but they take as long as real prompts of that
    length. `pocketvlm bench serve` measures a server instead: see `pocketvlm bench serve --help`.
    """
    import json

    from pocketvlm.bench.depths import measure_depths
    from pocketvlm.bench.roofline import roofline
    from pocketvlm.bench.scenarios import measure
    from pocketvlm.cli.terminal import Activity

    if runs < 1:
        raise OptionError(f"runs={runs} is out of range: give at least 1")
    with Activity(quiet) as activity:
        loading = options.given(values, LoadOptions)
        engine, side, facts = _random(activity, loading) if random else _loaded(activity, model, loading)

        def progress(what: str) -> None:
            activity.say(f"timing: {what}")

        if depth:
            result = {**facts, **measure_depths(engine, side, depth, runs, progress), "runs": runs}
        else:
            result = {**facts, **measure(engine, side, runs, progress), "runs": runs}
            result["memory_bytes"] = _memory()  # before the arrays that the limits are measured with
            result["roofline"] = roofline(engine, side, progress)
    if not as_json:
        print(_depths_page(result) if depth else _page(result))
    print(json.dumps(result))


def _loaded(activity: Any, model: str, loading: dict[str, Any]) -> tuple[Engine, int, dict[str, Any]]:
    from pocketvlm.api import load

    activity.say(f"loading {model}")
    loaded = load(model, progress=activity.loading(model), **loading)
    processor = loaded.checkpoint.processor
    facts = {
        "model": model,
        "backend": loaded.ops.describe(),
        "disk_bytes": loaded.checkpoint.nbytes,
        "load_seconds": loaded.load_seconds,
    }
    return loaded.engine, processor.scale_resolution // processor.patch_size // 4 * 4, facts


def _random(activity: Any, loading: dict[str, Any]) -> tuple[Engine, int, dict[str, Any]]:
    import time

    from pocketvlm import backends
    from pocketvlm.backends.options import choose
    from pocketvlm.bench.shape import random_tensors, released_config
    from pocketvlm.config import ProcessorConfig
    from pocketvlm.engine import Engine
    from pocketvlm.model import MiniCPMV, tensor_roles
    from pocketvlm.quantize import quantized

    how = LoadOptions(**loading)
    scheme = choose("native", how.weights, how.precision, kv_cache_dtype=how.kv_cache_dtype)
    ops = backends.create("native", how.threads, None, scheme)
    config = released_config()
    activity.say("making random weights")
    tensors = random_tensors(config)
    stored = sum(tensor.data.nbytes for tensor in tensors.values())
    began = time.perf_counter()
    activity.say("packing them")
    network = MiniCPMV(config, ops, quantized(tensors, tensor_roles(config), scheme))
    engine = Engine(network, prefill_chunk=how.prefill_chunk or DEFAULT_PREFILL_CHUNK)
    facts = {
        "model": "the released shape, random weights",
        "backend": ops.describe(),
        "disk_bytes": stored,
        "load_seconds": time.perf_counter() - began,
    }
    processor = ProcessorConfig()
    return engine, processor.scale_resolution // processor.patch_size, facts


def _memory() -> dict[str, int]:
    """Resident bytes now and at most."""
    import resource
    from contextlib import suppress
    from pathlib import Path

    found = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        found["resident"] = int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
        found["peak"] = max(found.values())  # the system updates the two values separately
    return found


def _head(result: dict[str, Any]) -> list[str]:
    from pocketvlm.cli.terminal import printable

    head = {"model": result["model"], **result["backend"]}
    width = max(map(len, head))
    return [f"{name:<{width}}  {printable(str(value))}" for name, value in head.items()]


def _depths_page(result: dict[str, Any]) -> str:
    from pocketvlm.bench.table import columns

    rows = [["depth", "prefill tok/s", "decode tok/s", "read for a token", "of the read bandwidth", "state"]]
    rows += [
        [
            str(row["depth"]),
            _rate(row["prefill"]),
            _rate(row["decode"]),
            readable_size(row["bytes"]),
            f"{row['bandwidth_share']:.0%} of {row['read_bandwidth'] / 1e9:.0f} GB/s",
            readable_size(row["state_bytes"]),
        ]
        for row in result["depths"]
    ]
    return "\n".join([*_head(result), "", *columns(rows), "", f"Medians (range) of {result['runs']} runs."])


def _page(result: dict[str, Any]) -> str:
    from pocketvlm.bench.table import columns

    lines = _head(result)
    rows = [["scenario", "tokens", "of image", "chunks", "first token", "decode tok/s"]]
    rows += [
        [
            row["name"], str(row["tokens"]), str(row["image_tokens"]), str(row["chunks"]),
            _milliseconds(row["ttft"]), _rate(row["decode"]),
        ]
        for row in result["scenarios"]
    ]  # fmt: skip
    batch, alone = result["batch"], result["decode"]
    pixels = result["view_pixels"]
    lines += ["", *columns(rows), ""]
    facts = {
        f"vision, one {pixels}x{pixels} view": ", ".join(
            f"{mode} {_milliseconds(spread)}" for mode, spread in result["vision_seconds"].items()
        ),
        f"{batch['sequences']} sequences together": f"{_rate(batch)} tok/s, "
        f"{batch['median'] / alone['median']:.1f} times one alone ({_rate(alone)})",
        "load": f"{result['load_seconds']:.2f} s",
        "on disk": readable_size(result["disk_bytes"]),
        "in memory": ", ".join(f"{name} {readable_size(number)}" for name, number in result["memory_bytes"].items()),
    }
    width = max(map(len, facts))
    lines += [f"{name:<{width}}  {value}" for name, value in facts.items()]
    if result["roofline"] is not None:
        lines += ["", *_card(result["roofline"])]
    lines += ["", f"Medians (range) of {result['runs']} runs."]
    return "\n".join(lines)


def _card(card: dict[str, Any]) -> list[str]:
    """The roofline as text."""
    from pocketvlm.bench.table import columns

    limits = card["limits"]
    lines = [
        f"limits measured here: read {limits['read_bandwidth'] / 1e9:.0f} GB/s, int8 {limits['int8'] / 1e9:.0f} Gop/s, "
        f"float32 {limits['float32'] / 1e9:.0f} Gop/s"
    ]
    for name, phase in card["phases"].items():
        parts = list(phase["operations"].items())
        together = sum(part["seconds"] for _, part in parts)
        share = (
            f"{phase['bandwidth_share']:.0%} of the read bandwidth"
            if name == "decode"
            else f"products at {phase['products_share']:.0%} of the int8 rate"
        )
        alone = f"; its operations one by one, {together * 1e3:.1f} ms:"
        lines.append(f"{name}: {phase['seconds'] * 1e3:.1f} ms, {share}{alone}")
        rows = [["", "operation", "calls", "ms", "share", "GB/s", "Gop/s"]]
        for operation, part in parts[:8]:
            seconds = part["seconds"]
            product = part["operations"] > 0 and seconds > 0
            rows.append(
                [
                    "",
                    operation,
                    f"{part['calls']:.0f}",
                    f"{seconds * 1e3:.2f}",
                    f"{seconds / together:.0%}",
                    f"{part['bytes'] / seconds / 1e9:.1f}" if product else "",
                    f"{part['operations'] / seconds / 1e9:.0f}" if product else "",
                ]
            )
        lines += columns(rows)
    return lines


def _milliseconds(spread: dict[str, float]) -> str:
    return f"{spread['median'] * 1e3:.0f} ms ({spread['least'] * 1e3:.0f}-{spread['most'] * 1e3:.0f})"


def _rate(spread: dict[str, float]) -> str:
    return f"{spread['median']:.1f} ({spread['least']:.1f}-{spread['most']:.1f})"
