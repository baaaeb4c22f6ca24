"""The quantized nanos: ours by each method, and those of llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pocketvlm

Make = Callable[[Path, Path, int], None]  # directory to make, cache of shared files, threads


@dataclass(frozen=True)
class Candidate:
    """One row.

    make: writes the checkpoint; None is the 16-bit model itself. precision: of the row. answers: whether it answers
    the questions too.
    """

    name: str
    make: Make | None
    precision: str = "exact"
    answers: bool = True


def ours(directory: Path, cache: Path, threads: int, **options: Any) -> None:
    """A native checkpoint of our quantizer."""
    pocketvlm.quantize_model("nano", directory, format="native", threads=threads, **options)


def llama_cpp(directory: Path, cache: Path, threads: int, *, kind: str, file_type: int, pure: bool) -> None:
    """A GGUF file of llama_model_quantize. pure: all matrices in one type, the head too."""
    from llama_cpp import llama_cpp as lib

    source = cache / "gguf"
    if not source.exists():
        pocketvlm.convert_model("nano", source, format="gguf")  # bfloat16 matrices, as nano has them
    directory.mkdir()
    for file in source.glob("mmproj-*.gguf"):
        shutil.copyfile(file, directory / file.name)
    (text,) = (file for file in source.glob("*.gguf") if not file.name.startswith("mmproj-"))
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = file_type, pure, threads
    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(None))
    target = directory / f"nano-{kind}.gguf"
    status = lib.llama_model_quantize(str(text).encode(), str(target).encode(), ctypes.byref(params))
    lib.llama_log_set(lib.llama_log_callback(), ctypes.c_void_p(None))
    if status:
        raise RuntimeError(f"llama.cpp could not quantize {text} to {kind} (status {status})")


def _ours(**options: Any) -> Make:
    return partial(ours, **options)


def _llama(kind: str, file_type: int, pure: bool) -> Make:
    return partial(llama_cpp, kind=kind, file_type=file_type, pure=pure)


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("16 bits", None),
    Candidate("int8", _ours(scheme="int8", method="rtn")),
    Candidate("int8, fast arithmetic", _ours(scheme="int8", method="rtn"), "fast"),
    # 4.6 bits in the file, whose headers and padded zero points count too: nano is small.
    Candidate("auto, 4.6 bits", _ours(scheme="int4-g64", method="auto", bits_per_weight=4.55)),
    Candidate("auto, bits of int4-g64", _ours(scheme="int4-g64", method="auto"), answers=False),
    Candidate("gptq, int4-g64", _ours(scheme="int4-g64", method="gptq")),
    Candidate("awq, int4-g64", _ours(scheme="int4-g64", method="awq")),
    Candidate("round to nearest, int4-g64", _ours(scheme="int4-g64", method="rtn")),
    Candidate("round to nearest, int4-g32", _ours(scheme="int4-g32", method="rtn"), answers=False),
    Candidate("llama.cpp Q4_1", _llama("Q4_1", 3, pure=True)),
    Candidate("llama.cpp Q4_1, head in Q8_0", _llama("Q4_1", 3, pure=False), answers=False),
    Candidate("llama.cpp IQ4_NL", _llama("IQ4_NL", 25, pure=True)),
    Candidate("llama.cpp IQ4_NL, head in Q8_0", _llama("IQ4_NL", 25, pure=False), answers=False),
)
