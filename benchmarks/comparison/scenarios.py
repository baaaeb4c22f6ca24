"""Lists the rows in the order they are measured, and starts and stops engines between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inputs import random_ids

from comparison.goals import BATCH_OF_1, MAIN
from comparison.llama import Llama
from comparison.ours import Ours, clock, image_prompt
from comparison.rows import Row, Timer

MAIN_FILES = "Q4_K_M BF16 BF16-4x"
AVX2_FILES = "Q4_K_M BF16"
DECODED = 32
START = "start of a process"
ONE_IMAGE = {"views": 1, "text": 24}
SLICED_IMAGE = {"views": 19, "text": 55}


@dataclass
class Engines:
    """The engines to measure; None is left out. int8: a function that makes the engine, which is needed once."""

    int4: Ours
    int8: Callable[[], Ours]
    reference: object
    llama: Llama | None
    avx2: Llama | None
    checkpoint: Callable[[], Path]
    cache: Path
    threads: int


def rows(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Every row that is wanted."""
    for group in (_int8, _decode, _prefill, _vision, _first_token, _batch, _avx2, _processes):
        yield from group(engines, quick, wanted)


def _llama(engines: Engines, kinds: str, name: str, do: str, shared: int = 1, **values: object) -> dict[str, Timer]:
    """A column of llama.cpp, if it is there."""
    return {name: engines.llama.seconds(kinds, do, shared, **values)} if engines.llama else {}


def _reference(engines: Engines, do: str, *values: object) -> dict[str, Timer]:
    if engines.reference is None:
        return {}
    return {"transformers bf16": lambda: getattr(engines.reference, do)(*values)}


def _int8(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    name = "decode, depth 32, int8"
    if not wanted(name):
        return
    ours = engines.int8()
    peers = _llama(engines, "Q8_0", "llama.cpp Q8_0", "decode", depth=32, tokens=DECODED)
    yield Row(name, lambda: ours.decode(32, DECODED), peers, 1, ours.token_bytes(32))
    if engines.llama:
        engines.llama.stop("Q8_0")


def _decode(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    ours = engines.int4
    for depth in (32, 1024):
        if wanted(name := f"decode, depth {depth}, int4"):
            peers = {
                **_llama(engines, MAIN_FILES, MAIN, "decode", depth=depth, tokens=DECODED),
                **_llama(engines, "Q4_0", "llama.cpp Q4_0", "decode", depth=depth, tokens=DECODED),
            }
            yield Row(name, lambda d=depth: ours.decode(d, DECODED), peers, 1, ours.token_bytes(depth + DECODED // 2))
    if engines.llama:
        engines.llama.stop("Q4_0")


def _prefill(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    ours = engines.int4
    for tokens in (512,) if quick else (512, 1280):
        if wanted(name := f"prefill {tokens}, int4"):
            ids = random_ids(tokens)
            peers = {
                **_llama(engines, MAIN_FILES, MAIN, "prefill", ids=ids),
                **_llama(engines, "BF16", "llama.cpp BF16", "prefill", ids=ids),
                **_reference(engines, "prefill", tokens),
            }
            yield Row(name, lambda n=tokens: ours.prefill(n), peers, tokens)
    if engines.llama:
        engines.llama.stop("BF16")


def _vision(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    for mode in ("16x",) if quick else ("16x", "4x"):
        if wanted(name := f"vision 448x448, {mode}"):
            values = {"width": 448, "height": 448, "mode": mode}
            peers = {
                **_llama(engines, MAIN_FILES, "llama.cpp BF16", "vision", **values),
                **_reference(engines, "vision", mode),
            }
            yield Row(name, lambda m=mode: engines.int4.vision(m), peers)


def _first_token(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    ours = engines.int4
    if wanted(name := "first token, text of 25"):
        peers = {
            **_llama(engines, MAIN_FILES, MAIN, "prefill", ids=random_ids(25)),
            **_reference(engines, "prefill", 25),
        }
        yield Row(name, lambda: ours.prefill(25), peers)
    if wanted(name := "first token, 1 view"):
        prompt = image_prompt(ours.config, **ONE_IMAGE)
        peers = {
            **_llama(engines, MAIN_FILES, MAIN, "image_prompt", **ONE_IMAGE),
            **_reference(engines, "image", ONE_IMAGE["views"], ONE_IMAGE["text"]),
        }
        yield Row(name, lambda: ours.first_token(prompt), peers)
    if not quick and wanted(name := "first token, 19 views"):
        sliced = image_prompt(ours.config, **SLICED_IMAGE)
        peers = _llama(engines, MAIN_FILES, MAIN, "image_prompt", **SLICED_IMAGE)
        yield Row(name, lambda: ours.first_token(sliced), peers, turns=2, warm=False)


def _batch(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    if wanted(name := "decode, batch of 8"):
        peers = {
            BATCH_OF_1: lambda: engines.int4.batch(1, DECODED),
            **_llama(engines, MAIN_FILES, MAIN, "batch", 8, sequences=8, tokens=DECODED),
        }
        yield Row(name, lambda: engines.int4.batch(8, DECODED), peers, 1)


def _avx2(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    if engines.avx2 is None:
        return
    if engines.llama:
        engines.llama.stop()
    ours, theirs = engines.int4.on("avx2"), engines.avx2
    if wanted(name := "AVX2: decode, depth 32"):
        timer = theirs.seconds(AVX2_FILES, "decode", depth=32, tokens=DECODED)
        yield Row(name, lambda: ours.decode(32, DECODED), {MAIN: timer}, 1)
    if wanted(name := "AVX2: prefill 512"):
        timer = theirs.seconds(AVX2_FILES, "prefill", ids=random_ids(512))
        yield Row(name, lambda: ours.prefill(512), {MAIN: timer}, 512)
    if wanted(name := "AVX2: vision 448x448, 16x"):
        timer = theirs.seconds(AVX2_FILES, "vision", width=448, height=448)
        yield Row(name, lambda: ours.vision("16x"), {"llama.cpp BF16": timer})
    theirs.stop()


def _processes(engines: Engines, quick: bool, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Whole processes on a checkpoint directory whose packed weights are cached since the warm-up turn."""
    names = {"memory after an image": "VmRSS", "memory, most at any time": "VmHWM"}
    if not any(map(wanted, (START, *names))):
        return
    path = engines.checkpoint()
    environment = {**os.environ, "POCKETVLM_CACHE": str(engines.cache)}
    # An installed package has compiled modules; in a checkout the warm-up turn makes them.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    threads = ["--threads", str(engines.threads)]

    def run(command: list[str]) -> str:
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    if wanted(START):
        asked = [sys.executable, "-m", "pocketvlm", "run", str(path), "-p", "What is this?", "--max-tokens", "1"]
        yield Row(START, lambda: clock(lambda: run([*asked, "--weights", "int4", "--quiet", *threads])))
    script = Path(__file__).with_name("resident.py")
    for name, kind in names.items():
        if wanted(name):
            yield Row(name, lambda k=kind: float(run([sys.executable, str(script), str(path), k, *threads])), turns=2)
