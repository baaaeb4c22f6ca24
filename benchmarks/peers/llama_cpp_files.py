"""Random weights of the released shape as the GGUF files that llama.cpp reads.

    python benchmarks/peers/llama_cpp_files.py DIRECTORY --text BF16 Q4_K_M --mmproj BF16

Our own writer makes the text model and the vision file in 16-bit floats, and llama.cpp itself quantizes the text model,
so it must be importable. Files are named after a digest of the weights and made once. The vocabulary is a stand-in of
the right size, made of random words; the template is nano's.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint import digest, write_settings
from numpy.typing import NDArray

import pocketvlm
from pocketvlm.bench.shape import RELEASED, random_tensors
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.checkpoint.gguf.names import is_text
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.gguf.writer import GgufWriter
from pocketvlm.config import ModelConfig
from pocketvlm.model import tensor_roles
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

Tensors = Mapping[str, DenseTensor]

# Kind of text file: (llama_ftype, whether every matrix, the tied head too, takes the one type).
TEXT_KINDS: Mapping[str, tuple[int, bool]] = {
    "F32": (0, False),
    "BF16": (32, False),
    "Q8_0": (7, False),
    "Q4_K_M": (15, False),
    "Q4_0": (2, False),
    "Q4_0-pure": (2, True),
}
MMPROJ_KINDS = ("BF16", "F16", "BF16-4x", "F16-4x")
NANO = Path(pocketvlm.__file__).parent / "nano"


def _package(name: str) -> Any:
    """Import a package of the comparison, or say what to install."""
    try:
        return __import__(name, fromlist=["*"])
    except ImportError as error:
        root = name.partition(".")[0]
        install = {"llama_cpp": "llama-cpp-python"}.get(root, root)
        sys.exit(f"{root} cannot be imported ({error}): `pip install {install}`, or put its folder on PYTHONPATH")


def _write(tensors: Mapping[str, Tensor], shape: Mapping[str, Any], path: Path, label: str, mode: str = "16x") -> None:
    """Write the one file that these tensors make; with mode 4x a tower without its merger."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        settings, files = Path(folder) / "MiniCPM-V-4.6-random", Path(folder) / "files"
        settings.mkdir()
        files.mkdir()
        write_settings(NANO, settings, shape)
        checkpoint = open_checkpoint(settings, weights=False)
        if mode == "4x":
            checkpoint = _without_merger(checkpoint)
        (file,) = GgufWriter().write(checkpoint, tensors, tensor_roles(checkpoint.model), files, label)
        file.replace(path)


def _without_merger(checkpoint: Checkpoint) -> Checkpoint:
    vision = checkpoint.model.vision
    assert vision is not None
    model = replace(checkpoint.model, downsample_mode="4x", vision=replace(vision, insert_layer_id=None))
    return replace(checkpoint, model=model)


def write_text(tensors: Tensors, shape: Mapping[str, Any], path: Path, kind: str | None = None) -> None:
    """Write the language model in bfloat16; kind: the type that llama.cpp quantizes every matrix to, the head too.

    shape: the content of config.json.
    """
    found: dict[str, Tensor] = {name: tensor for name, tensor in tensors.items() if is_text(name)}
    if kind:
        found = {name: _by_llama_cpp(its, kind) if len(its.shape) == 2 else its for name, its in found.items()}
    _write(found, shape, path, kind or "BF16")


def _by_llama_cpp(tensor: Tensor, kind: str) -> QuantizedTensor:
    """A matrix that llama.cpp quantized."""
    gguf = _package("gguf")
    rows = quantize_rows(tensor.dequantize(), gguf.GGMLQuantizationType[kind])
    return unpack_matrix(tensor.name, kind, (tensor.shape[0], tensor.shape[1]), lambda: rows)


def quantize_rows(values: NDArray[np.float32], kind: Any) -> NDArray[np.uint8]:
    """Let llama.cpp quantize a matrix to a type of the `gguf` package: uint8 [rows, bytes of a row]."""
    rows, columns = values.shape
    block, nbytes = _package("gguf.constants").GGML_QUANT_SIZES[kind]
    found = np.empty((rows, columns // block * nbytes), np.uint8)
    function = _package("llama_cpp._ggml").libggml.ggml_quantize_chunk
    function.restype, pointer = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    written = function(kind.value, values.ctypes.data, found.ctypes.data, 0, rows, columns, None)
    if written != found.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes of {kind.name}, {found.nbytes} were expected")
    return found


def write_mmproj(tensors: Tensors, shape: Mapping[str, Any], path: Path, kind: str) -> None:
    """Write the vision tower and mergers; kind is BF16 or F16, with "-4x" for the mode without the tower's merger."""
    dtype, _, mode = kind.partition("-")
    found: dict[str, Tensor] = {
        name: tensor
        for name, tensor in tensors.items()
        if not is_text(name) and not (mode == "4x" and ".vit_merger." in name)
    }
    _write(found, shape, path, dtype, mode)


def quantize(source: Path, path: Path, kind: str, threads: int) -> None:
    """Let llama.cpp quantize a text file."""
    lib = _package("llama_cpp.llama_cpp")
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.pure = TEXT_KINDS[kind]
    params.nthread = threads
    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(None))
    lib.llama_backend_init()
    status = lib.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params))
    lib.llama_log_set(lib.llama_log_callback(), ctypes.c_void_p(None))
    if status:
        raise RuntimeError(f"llama.cpp could not quantize {source} to {kind} (status {status})")


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file under another name and put it in place, unless it is there."""
    if not path.exists():
        began = time.perf_counter()
        unfinished = path.with_suffix(".unfinished")
        try:
            make(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        print(
            f"{path.name}: {path.stat().st_size / 2**20:.0f} MiB, {time.perf_counter() - began:.0f} s", file=sys.stderr
        )
    return path


def places(tensors: Tensors, directory: Path, text: Iterable[str], mmproj: Iterable[str]) -> dict[str, Path]:
    """Where the files of these weights are, or will be: {"text Q4_K_M": path, "mmproj BF16": path, ...}."""
    stem = directory / f"random-{digest(tensors)}"
    names = [*(f"text {kind}" for kind in text), *(f"mmproj {kind}" for kind in mmproj)]
    return {name: Path(f"{stem}-{name.replace(' ', '-')}.gguf") for name in names}


def export(
    tensors: Tensors,
    shape: Mapping[str, Any],
    directory: Path,
    text: Iterable[str] = ("BF16",),
    mmproj: Iterable[str] = ("BF16",),
    threads: int = 2,
) -> dict[str, Path]:
    """The requested files, made where they are missing: {"text Q4_K_M": path, "mmproj BF16": path, ...}."""
    directory.mkdir(parents=True, exist_ok=True)
    found = places(tensors, directory, text, mmproj)
    for name, path in found.items():
        part, _, kind = name.partition(" ")
        if part == "mmproj":
            _once(path, partial(write_mmproj, tensors, shape, kind=kind))
        elif kind == "BF16":
            _once(path, lambda to: write_text(tensors, shape, to))
        elif not path.exists():
            source = export(tensors, shape, directory, ("BF16",), ())["text BF16"]
            _once(path, partial(quantize, source, kind=kind, threads=threads))
    return found


def main() -> None:
    """Write the requested files and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--text", nargs="*", choices=list(TEXT_KINDS), default=["BF16", "Q8_0", "Q4_K_M", "Q4_0"])
    parser.add_argument("--mmproj", nargs="*", choices=MMPROJ_KINDS, default=["BF16", "F16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tensors = random_tensors(ModelConfig.from_dict(RELEASED), options.seed)
    files = export(tensors, RELEASED, options.directory, options.text, options.mmproj, options.threads)
    for name, path in files.items():
        print(f"{name}\t{path}")


if __name__ == "__main__":
    main()
