"""Lists the rows in the order they are measured, and starts and stops engines between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from inputs import VIEW, random_ids

from comparison.engines import AVX2_FILES, MAIN_FILES, Engines
from comparison.goals import BATCH_OF_1, MAIN
from comparison.ours import clock, image_prompt
from comparison.rows import Row, Timer

DECODED = 32
START = "start of a process"
MEMORY = {"memory after an image": "VmRSS", "memory, most at any time": "VmHWM"}
DEPTHS, PROMPTS, MODES = (32, 1024), (512, 1280), ("16x", "4x")
AVX2 = ("AVX2: decode, depth 32", "AVX2: prefill 512", f"AVX2: vision {VIEW}x{VIEW}, 16x")
# Of every row, in the order of the table.
NAMES = (
    "decode, depth 32, int8",
    *(f"decode, depth {depth}, int4" for depth in DEPTHS),
    *(f"prefill {tokens}, int4" for tokens in PROMPTS),
    *(f"vision {VIEW}x{VIEW}, {mode}" for mode in MODES),
    *("first token, text of 25", "first token, 1 view", "first token, 19 views", "decode, batch of 8"),
    *AVX2,
    START,
    *MEMORY,
)
ONE_IMAGE = {"views": 1, "text": 24}
SLICED_IMAGE = {"views": 19, "text": 55}
Wanted = Callable[[str], bool]


def rows(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    """Every row that is wanted; its engines are made when it is."""
    for group in (_int8, _decode, _prefill, _vision, _first_token, _batch, _avx2, _processes):
        yield from group(engines, wanted)


def _reference(engines: Engines, do: str, *values: object) -> dict[str, Timer]:
    if engines.reference is None:
        return {}
    return {"transformers bf16": lambda: getattr(engines.reference, do)(*values)}


def _int8(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    name = "decode, depth 32, int8"
    if wanted(name):
        ours = engines.engine("int8")
        peers = engines.llama_columns("Q8_0", "llama.cpp Q8_0", "decode", depth=32, tokens=DECODED)
        yield Row(name, lambda: ours.decode(32, DECODED), peers, 1, ours.token_bytes(32))
        engines.stop("Q8_0")


def _decode(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    for depth in DEPTHS:
        if wanted(name := f"decode, depth {depth}, int4"):
            peers = {
                **engines.llama_columns(MAIN_FILES, MAIN, "decode", depth=depth, tokens=DECODED),
                **engines.llama_columns("Q4_0", "llama.cpp Q4_0", "decode", depth=depth, tokens=DECODED),
            }
            read = engines.int4.token_bytes(depth + DECODED // 2)
            yield Row(name, lambda d=depth: engines.int4.decode(d, DECODED), peers, 1, read)
    engines.stop("Q4_0")


def _prefill(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    for tokens in PROMPTS:
        if wanted(name := f"prefill {tokens}, int4"):
            ids = random_ids(tokens)
            peers = {
                **engines.llama_columns(MAIN_FILES, MAIN, "prefill", ids=ids),
                **engines.llama_columns("BF16", "llama.cpp BF16", "prefill", ids=ids),
                **_reference(engines, "prefill", tokens),
            }
            yield Row(name, lambda n=tokens: engines.int4.prefill(n), peers, tokens)
    engines.stop("BF16")


def _vision(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    for mode in MODES:
        if wanted(name := f"vision {VIEW}x{VIEW}, {mode}"):
            values = {"width": VIEW, "height": VIEW, "mode": mode}
            peers = _reference(engines, "vision", mode)
            if engines.llama:
                peers["llama.cpp BF16"] = engines.llama.seconds(engines.vision_files, "vision", **values)
            if mode == "16x" and engines.openvino:
                peers |= engines.openvino.timers()
            yield Row(name, lambda m=mode: engines.int4.vision(m), peers)
    if "openvino" in engines.__dict__ and engines.openvino:
        engines.openvino.stop()


def _first_token(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    if wanted(name := "first token, text of 25"):
        ours = engines.int4
        peers = {
            **engines.llama_columns(MAIN_FILES, MAIN, "prefill", ids=random_ids(25)),
            **_reference(engines, "prefill", 25),
        }
        yield Row(name, lambda: ours.prefill(25), peers)
    if wanted(name := "first token, 1 view"):
        ours, prompt = engines.int4, image_prompt(engines.config, **ONE_IMAGE)
        peers = {
            **engines.llama_columns(MAIN_FILES, MAIN, "image_prompt", **ONE_IMAGE),
            **_reference(engines, "image", ONE_IMAGE["views"], ONE_IMAGE["text"]),
        }
        yield Row(name, lambda: ours.first_token(prompt), peers)
    if wanted(name := "first token, 19 views"):
        ours, sliced = engines.int4, image_prompt(engines.config, **SLICED_IMAGE)
        peers = engines.llama_columns(MAIN_FILES, MAIN, "image_prompt", **SLICED_IMAGE)
        yield Row(name, lambda: ours.first_token(sliced), peers, turns=2, warm=False)


def _batch(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    if wanted(name := "decode, batch of 8"):
        ours = engines.int4
        peers = {
            BATCH_OF_1: lambda: ours.batch(1, DECODED),
            **engines.llama_columns(MAIN_FILES, MAIN, "batch", 8, sequences=8, tokens=DECODED),
        }
        yield Row(name, lambda: ours.batch(8, DECODED), peers, 1)


def _avx2(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    if not any(map(wanted, AVX2)) or engines.avx2 is None:
        return
    engines.stop()
    ours, theirs = engines.int4.on("avx2"), engines.avx2
    decode, prefill, vision = AVX2
    if wanted(decode):
        timer = theirs.seconds(AVX2_FILES, "decode", depth=32, tokens=DECODED)
        yield Row(decode, lambda: ours.decode(32, DECODED), {MAIN: timer}, 1)
    if wanted(prefill):
        timer = theirs.seconds(AVX2_FILES, "prefill", ids=random_ids(512))
        yield Row(prefill, lambda: ours.prefill(512), {MAIN: timer}, 512)
    if wanted(vision):
        timer = theirs.seconds(AVX2_FILES, "vision", width=VIEW, height=VIEW)
        yield Row(vision, lambda: ours.vision("16x"), {"llama.cpp BF16": timer})
    theirs.stop()


def _processes(engines: Engines, wanted: Wanted) -> Iterator[Row]:
    """Whole processes on a checkpoint directory whose packed weights are cached since the warm-up turn."""
    if not any(map(wanted, (START, *MEMORY))):
        return
    path, options = engines.checkpoint(), engines.options
    environment = {**os.environ, "POCKETVLM_CACHE": str(options.gguf / "cache")}
    # An installed package has compiled modules; in a checkout the warm-up turn makes them.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    threads = ["--threads", str(options.threads)]

    def run(command: list[str]) -> str:
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    if wanted(START):
        asked = [sys.executable, "-m", "pocketvlm", "run", str(path), "-p", "What is this?", "--max-tokens", "1"]
        yield Row(START, lambda: clock(lambda: run([*asked, "--weights", "int4", "--quiet", *threads])))
    script = Path(__file__).with_name("resident.py")
    for name, kind in MEMORY.items():
        if wanted(name):
            yield Row(name, lambda k=kind: float(run([sys.executable, str(script), str(path), k, *threads])), turns=2)
