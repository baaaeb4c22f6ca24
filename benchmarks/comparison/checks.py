"""Checks that all engines compute the same, and measures the errors of fast arithmetic and quantized weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from check_llama_cpp import LIMIT as LLAMA_LIMIT
from inputs import VIEW, random_ids
from numpy.typing import NDArray

from comparison.engines import DENSE, Engines
from comparison.llama import Llama
from comparison.openvino import COLUMNS, EXACT, OpenVINO
from comparison.ours import Ours
from pocketvlm.backends import native
from pocketvlm.backends.native.pack import pack
from pocketvlm.backends.options import choose
from pocketvlm.checkpoint.gguf.names import file_name, is_text
from pocketvlm.model import tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.tensors import DenseTensor

Floats = NDArray[np.float32]
Errors = dict[str, float]
TOKENS, LONGER, SEED = 40, 128, 7
# Float32 against float32, as in the tests: logits as the largest difference, features as a relative error.
LOGITS_LIMIT, FEATURES_LIMIT = 2e-3, 1e-4
SAMPLED_ROWS = 512


class DifferentError(Exception):
    """Engines that do not compute the same: nothing may be timed."""


def error(found: Floats, reference: Floats) -> float:
    """Relative error."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def _hold(found: Errors, what: str, value: float, limit: float) -> None:
    found[what] = value
    if not value <= limit:
        raise DifferentError(f"{what}: {value:.2e}, over the limit of {limit:g}: nothing was timed")


def against_reference(exact: Ours, reference: Any, found: Errors) -> None:
    """Our exact arithmetic and transformers in float32; raises DifferentError."""
    ids = random_ids(TOKENS, SEED)
    difference = float(np.abs(exact.logits(ids) - reference.logits(ids)).max())
    _hold(found, "transformers float32, largest difference of logits", difference, LOGITS_LIMIT)
    for mode in ("16x", "4x"):
        value = error(exact.features(mode, SEED), reference.features(mode, SEED))
        _hold(found, f"transformers float32, features {mode}", value, FEATURES_LIMIT)


def against_openvino(exact: Ours, openvino: OpenVINO, found: Errors) -> None:
    """Our exact arithmetic, which equals transformers, and OpenVINO in float32; raises DifferentError."""
    value = error(openvino.features(EXACT, SEED), exact.features("16x", SEED))
    openvino.stop(EXACT)
    _hold(found, "OpenVINO float32, features 16x", value, FEATURES_LIMIT)


def against_llama(exact: Ours, llama: Llama, vision_files: str, found: Errors) -> None:
    """Our exact arithmetic and llama.cpp on float32 weights and on its bfloat16 vision file; raises DifferentError."""
    ids = random_ids(TOKENS, SEED)
    logits = llama.array("F32", "logits", ids=ids, all=True)
    llama.stop("F32")
    _hold(found, "llama.cpp F32, logits", error(logits, exact.logits(ids)), LLAMA_LIMIT)
    for mode in ("16x", "4x"):
        features = _llama_features(llama, vision_files, mode)
        _hold(found, f"llama.cpp BF16, features {mode}", error(features, exact.features(mode, SEED)), LLAMA_LIMIT)


def _llama_features(llama: Llama, kinds: str, mode: str) -> Floats:
    return llama.array(kinds, "vision", width=VIEW, height=VIEW, mode=mode, seed=SEED, save=True)


def text_errors(engines: Engines, exact: Ours) -> dict[str, Errors]:
    """Relative error of the logits of a prompt, and how often the best token is the same, by engine and weights."""
    ids = random_ids(LONGER, SEED)
    right = exact.logits(ids)
    best = right.argmax(-1)

    def judged(logits: Floats) -> Errors:
        return {"error": error(logits, right), "same best token": float((logits.argmax(-1) == best).mean())}

    found = {f"pocketvlm {name}": judged(engines.engine(name).logits(ids)) for name in ("int8", "int4")}
    found["pocketvlm bf16 (fast)"] = judged(engines.engine("bf16").logits(ids))
    if engines.reference is not None:
        found["transformers bf16"] = judged(engines.reference.logits(ids))
    for kind in ("BF16", "Q8_0", "Q4_K_M", "Q4_0"):
        if llama := engines.llama if kind in DENSE else engines.quantized_llama():
            found[f"llama.cpp {kind}"] = judged(llama.array(kind, "logits", ids=ids, all=True))
            llama.stop(kind)
    return found


def vision_errors(engines: Engines, exact: Ours) -> dict[str, Errors]:
    """Relative error of the features of a view in both modes, by engine and weights."""
    right = {mode: exact.features(mode, SEED) for mode in ("16x", "4x")}

    def judged(features: Callable[[str], Floats], *modes: str) -> Errors:
        return {mode: error(features(mode), right[mode]) for mode in modes}

    found = {"pocketvlm int8": judged(lambda mode: engines.int4.features(mode, SEED), "16x", "4x")}
    if reference := engines.reference:
        found["transformers bf16"] = judged(lambda mode: reference.features(mode, SEED), "16x", "4x")
    if llama := engines.llama:
        files = engines.vision_files
        found["llama.cpp BF16"] = judged(lambda mode: _llama_features(llama, files, mode), "16x", "4x")
        llama.stop(files)
        found["llama.cpp F16"] = judged(lambda mode: _llama_features(llama, "BF16 F16", mode), "16x")
        llama.stop("BF16 F16")
    if openvino := engines.openvino:
        for name, which in COLUMNS.items():
            found[name] = {"16x": error(openvino.features(which, SEED), right["16x"])}
            openvino.stop(which)
    return found


class Codes:
    """Errors and sizes of matrices by quantization, each weighted with the size of the whole matrix."""

    def __init__(self, tensors: Mapping[str, DenseTensor]) -> None:
        names = [name for name, tensor in tensors.items() if is_text(name) and len(tensor.shape) == 2]
        self.size = {name: tensors[name].data.size for name in names}
        self.parts = {name: DenseTensor(name, "bf16", tensors[name].data[:SAMPLED_ROWS]) for name in names}
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, label: str, name: str, values: Floats, nbytes: int) -> None:
        """Count a matrix: the values of its first rows, and the bytes that they take."""
        part, size = self.parts[name], self.size[name]
        taken = np.array([error(values, part.float32()), 8 * nbytes / values.size, 1.0]) * size
        self._sums[label] = self._sums.get(label, np.zeros(3)) + taken

    def means(self) -> dict[str, Errors]:
        """Mean relative error and bits a weight, by kind."""
        return {
            label: {"error": float(sums[0] / sums[2]), "bits": float(sums[1] / sums[2])}
            for label, sums in self._sums.items()
        }


def weight_errors(engines: Engines, files: Mapping[str, Path]) -> dict[str, Errors]:
    """Relative error of the language model's matrices with the head, and bits a weight, by kind of code.

    Judged by the first rows of each matrix. "as a whole": with the matrices that have other codes in the same model.
    """
    codes, runtime = Codes(engines.tensors), native.create(engines.options.threads)._native
    for weights, bits in (("int4", 4), ("int8", 8)):
        matrices = quantized(codes.parts, tensor_roles(engines.config), choose("native", weights))
        for name, part in codes.parts.items():
            packed = pack(runtime, matrices[name])
            values = np.empty(part.shape, np.float32)
            runtime.quantized_embed(packed.handle, np.arange(len(values), dtype=np.int32), values)
            labels = [f"pocketvlm {weights} as a whole"] + [f"pocketvlm {weights} codes"] * (packed.bits == bits)
            for label in labels:
                codes.add(label, name, values, packed.nbytes)
    for label, file in {"Q4_0": "Q4_0-pure", "Q4_K_M": "Q4_K_M", "Q8_0": "Q8_0"}.items():
        if path := files.get(f"text {file}"):
            _gguf_errors(path, label, codes)
    return codes.means()


def _gguf_errors(path: Path, label: str, codes: Codes) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for name, part in codes.parts.items():
        tensor = found[file_name(name)]
        rows = tensor.data[: part.shape[0]]
        values = dequantize(rows, tensor.tensor_type).reshape(part.shape)
        labels = [f"llama.cpp {tensor.tensor_type.name}"] * (label in ("Q4_K_M", tensor.tensor_type.name))
        for one in [*labels, *(["llama.cpp Q4_K_M as a whole"] if label == "Q4_K_M" else [])]:
            codes.add(one, name, values, rows.nbytes)
