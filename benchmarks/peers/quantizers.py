"""Quantizers of other tools, for one matrix: llama.cpp's, auto-gptq's, and AWQ as its paper's code does it."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pocketvlm.checkpoint.formats.gguf import BLOCK_TYPES, unpack_matrix
from pocketvlm.tensors import Floats

GGML_TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20,
}  # fmt: skip


@cache
def ggml() -> Any:
    """The library with llama.cpp's quantizers, from llama-cpp-python."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError("llama-cpp-python is not installed: pip install 'pocketvlm[bench]'")
    folder = Path(spec.origin).parent / "lib"
    library = ctypes.CDLL(str(next(path for path in sorted(folder.iterdir()) if "ggml-base" in path.name)))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    size, address = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, address, address, size, size, size, address]
    return library


def llama_cpp(kind: str, w: Floats, importance: Floats | None) -> Floats:
    """The values of w as llama.cpp quantizes it to a type, with an importance matrix [inputs] or without."""
    block, (rows, inputs) = BLOCK_TYPES[kind], w.shape
    data = np.zeros((rows, inputs // block.values * block.nbytes), np.uint8)
    ggml().ggml_quantize_init(GGML_TYPES[kind])
    w = np.ascontiguousarray(w, np.float32)
    matrix = None if importance is None else np.ascontiguousarray(importance, np.float32)
    address = None if matrix is None else matrix.ctypes.data
    written = ggml().ggml_quantize_chunk(GGML_TYPES[kind], w.ctypes.data, data.ctypes.data, 0, rows, inputs, address)
    assert written == data.size
    return unpack_matrix("w", kind, (rows, inputs), lambda: data).dequantize()


def load_auto_gptq(folder: Path) -> types.ModuleType:
    """The module gptq.py of auto-gptq's sources, whose folder has the package `auto_gptq`; nothing else is imported."""
    package = "auto_gptq_sources"
    sys.modules[package] = types.ModuleType(package)
    loaded = types.ModuleType(package)
    for name in ("quantizer", "gptq"):
        path = folder / "auto_gptq" / "quantization" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{package}.{name}", path)
        if spec is None or spec.loader is None or not path.exists():
            raise FileNotFoundError(f"{path} does not exist: unpack the wheel of auto-gptq 0.7.1 into {folder}")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[f"{package}.{name}"] = loaded
        spec.loader.exec_module(loaded)
    return loaded


def auto_gptq(
    module: types.ModuleType, w: Floats, gram: Floats, bits: int, group: int, symmetric: bool, **options: Any
) -> Floats:
    """The values of w as auto-gptq quantizes it; options: `actorder`, `static_groups`, `mse`."""
    import torch

    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(w.copy())
    method = module.GPTQ(layer)
    method.H, method.nsamples = torch.from_numpy(2 * gram), 1
    method.quantizer.configure(bits, perchannel=True, sym=symmetric, mse=options.pop("mse", False))
    synchronize, torch.cuda.synchronize = torch.cuda.synchronize, lambda *_: None
    try:
        scales, zeros, index = method.fasterquant(group_size=group, **options)
    finally:
        torch.cuda.synchronize = synchronize
    # Checkpoints store scales as float16, and codes that are made of them before.
    scales, zeros, index = scales.numpy(), zeros.numpy(), index.numpy()
    codes = np.rint(layer.weight.data.numpy() / scales[:, index]) + zeros[:, index]
    stored = scales.astype(np.float16).astype(np.float32)
    return ((codes - zeros[:, index]) * stored[:, index]).astype(np.float32)


def minmax(w: Floats, bits: int, group: int) -> Floats:
    """AWQ's rounding: the range of each group in equal steps, with an integer zero point."""
    x = w.reshape(len(w), -1, group)
    top = np.float32(2**bits - 1)
    high, low = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
    scale = (np.maximum(high - low, 1e-5) / top).astype(np.float16).astype(np.float32)
    zero = np.clip(-np.rint(low / scale), 0, top)
    values: Floats = (np.clip(np.rint(x / scale) + zero, 0, top) - zero) * scale
    return values.reshape(w.shape)


def awq(w: Floats, x: Floats, bits: int, group: int, clipped: bool = True) -> Floats:
    """The values of w after AWQ's search of scales, and of clipping, on inputs x [tokens, inputs]."""
    sizes = np.abs(w).reshape(len(w), -1, group)
    weight = (sizes / np.maximum(sizes.max(-1, keepdims=True), 1e-12)).reshape(w.shape).mean(0)
    activation = np.abs(x).mean(0)
    gram = x.T @ x
    best, lowest = np.ones(w.shape[1], np.float32), np.inf
    for step in range(20):
        ratio = step / 20
        s = np.maximum(activation**ratio / (weight ** (1 - ratio) + 1e-4), 1e-4).astype(np.float32)
        s /= np.sqrt(s.max() * s.min())
        difference = w - minmax(w * s, bits, group) / s
        loss = float(np.vdot(difference @ gram, difference))
        if loss < lowest:
            best, lowest = s, loss
    scaled = w * best
    if clipped:
        scaled = _clip(scaled, x[:: max(1, len(x) // 512)] / best, bits, group)
    values: Floats = minmax(scaled, bits, group) / best
    return values


def _clip(w: Floats, x: Floats, bits: int, group: int) -> Floats:
    clipped = w.copy()
    for start in range(0, w.shape[1], group):
        columns = slice(start, start + group)
        part = w[:, columns]
        gram = x[:, columns].T @ x[:, columns]
        largest = np.abs(part).max(1, keepdims=True)
        best, lowest = largest.copy(), np.full((len(w), 1), np.inf, np.float32)
        for step in range(10):
            limit = largest * np.float32(1 - step / 20)
            difference = minmax(np.clip(part, -limit, limit), bits, group) - part
            error = (difference @ gram * difference).sum(1, keepdims=True)
            best, lowest = np.where(error < lowest, limit, best), np.minimum(error, lowest)
        clipped[:, columns] = np.clip(part, -best, best)
    return clipped
