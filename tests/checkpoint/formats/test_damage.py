"""Random damage to settings, headers and arrays of every format: a clear error or numbers, never anything else."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import MODULE, NAME, Arrays
from safetensors_kit import encode
from word_kit import awq_arrays, gptq_arrays, packed, random_matrix

from pocketvlm.backends.native.layout import kernel_of
from pocketvlm.checkpoint.formats.native_arrays import native_arrays
from pocketvlm.checkpoint.formats.registry import READERS, find_format
from pocketvlm.checkpoint.formats.safetensors import read_entries
from pocketvlm.checkpoint.names import canonical_entries
from pocketvlm.errors import PocketVLMError
from pocketvlm.tensors import BlockValues, QuantizedTensor

SHAPE = (16, 64)
ROUNDS = 150
_RANDOM = np.random.default_rng(0)
_CODES = _RANDOM.integers(0, 16, SHAPE)
_BYTES = _RANDOM.integers(0, 120, SHAPE).astype(np.uint8)


def _native(tensor: QuantizedTensor) -> Arrays:
    """The arrays of a matrix in the native format, by suffix."""
    return {
        f"weight{key.removeprefix('x')}".removesuffix("."): (array.dtype, array.read())
        for key, array in native_arrays("x", tensor).items()
    }


def _floats(*shape: int) -> tuple[str, np.ndarray]:
    return "F32", _RANDOM.uniform(0.5, 1, shape).astype(np.float32)


def _small(*shape: int) -> tuple[str, np.ndarray]:
    return "F8_E4M3", _RANDOM.integers(8, 100, shape).astype(np.uint8)


def _state() -> tuple[str, np.ndarray]:
    text = {"blocksize": 64, "nested_blocksize": 4, "nested_offset": 0.5, "shape": list(SHAPE), "quant_type": "nf4"}
    return "U8", np.frombuffer(json.dumps(text).encode(), np.uint8)


def _compressed(format_: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear", "re:.*mlp.*"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": format_, "config_groups": {"group_0": group}}


_MATRIX = random_matrix(*SHAPE, 4, 32)
_GPTQ = {"bits": 4, "group_size": 32, "desc_act": True, "sym": False, "checkpoint_format": "gptq"}
# Quantization settings, and the arrays of one matrix.
SAMPLES: dict[str, tuple[dict[str, Any], Arrays]] = {
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, awq_arrays(_MATRIX)),
    "GPTQ": (
        {**_GPTQ, "quant_method": "gptq", "meta": {"quantizer": ["gptqmodel:7"]}, "dynamic": {".*": {"group_size": 8}}},
        gptq_arrays(random_matrix(*SHAPE, 4, 32, shuffled=True)),
    ),
    "AutoRound": (
        {**_GPTQ, "quant_method": "auto-round", "packing_format": "auto_round", "extra_config": {MODULE: {"bits": 4}}},
        gptq_arrays(_MATRIX, g_idx=False),
    ),
    "MLX": (
        {"group_size": 32, "bits": 4, "mode": "affine", MODULE: {"group_size": 32, "bits": 4}},
        {"weight": ("U32", packed(_CODES, 4)), "scales": _floats(16, 2), "biases": _floats(16, 2)},
    ),
    "MLX mxfp4": (
        {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        {"weight": ("U32", packed(_CODES, 4)), "scales": ("U8", np.full((16, 2), 120, np.uint8))},
    ),
    "bitsandbytes, 4 bits": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {
            "weight": ("U8", _BYTES[:, :32].reshape(-1, 1)),
            "weight.absmax": ("U8", _BYTES[0, :16]),
            "weight.quant_map": _floats(16),
            "weight.nested_absmax": _floats(4),
            "weight.nested_quant_map": _floats(256),
            "weight.quant_state.bitsandbytes__nf4": _state(),
        },
    ),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"weight": ("I8", _BYTES.view(np.int8)), "SCB": _floats(16), "weight_format": ("U8", np.array(0, np.uint8))},
    ),
    "FP8": (
        {"quant_method": "fp8", "weight_block_size": [8, 32]},
        {"weight": ("F8_E4M3", _BYTES), "weight_scale_inv": _floats(2, 2)},
    ),
    "compressed-tensors": (
        _compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False),
        {
            "weight_packed": ("I32", packed(_CODES, 4).view("<i4")),
            "weight_scale": _floats(16, 2),
            "weight_zero_point": ("I32", packed(_CODES[:, :2].T, 4).view("<i4").T.copy()),
            "weight_shape": ("I64", np.array(SHAPE)),
            "weight_g_idx": ("I32", _RANDOM.permutation(np.arange(64, dtype=np.int32) // 32)),
        },
    ),
    "compressed-tensors, NVFP4": (
        _compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
        {
            "weight_packed": ("U8", _BYTES[:, :32]),
            "weight_scale": _small(16, 4),
            "weight_global_scale": _floats(1),
        },
    ),
    "compressed-tensors, blocks": (
        _compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure="8x32"),
        {"weight": ("F8_E4M3", _BYTES), "weight_scale": _floats(2, 2)},
    ),
    "ModelOpt": (
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}},
        {"weight": ("U8", _BYTES[:, :32]), "weight_scale": _small(16, 4), "weight_scale_2": _floats()},
    ),
}
_NATIVE = _native(
    QuantizedTensor(
        "x",
        4,
        SHAPE,
        _CODES.astype(np.uint8),
        BlockValues(
            _RANDOM.integers(0, 60, (16, 4)).astype(np.uint8), (1, 16), scale=BlockValues(_floats(16, 1)[1], (1, 4))
        ),
        biases=BlockValues(_floats(16, 2)[1], (1, 32)),
        permutation=_RANDOM.permutation(64),
    )
)
SAMPLES["native"] = {"quant_method": "pocketvlm", "version": 1}, _NATIVE
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 5, 8, 16, 4.0, 0.5, 2**40, 10**30, -(2**63), float("nan"), float("inf"), 1e300,
    "", "4", "8x", "x", "9x" + "9" * 5000, "re:(", "re:", "\ud800", [], [[]], ["gptq"], {}, {"a": {}}, [8, 32],
    [2**70, 1], 10**400, [None], {"format": "x"},
]  # fmt: skip
DTYPES = ["F32", "F16", "BF16", "I32", "U32", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I64", "F64", "F4", "BOOL"]


def _sections(data: Any) -> list[dict[str, Any]]:
    """All objects in settings, the outermost first."""
    found = [data] if isinstance(data, dict) else []
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else []:
        found += _sections(value)
    return found


def _damage_settings(settings: dict[str, Any], dice: random.Random) -> None:
    section = dice.choice(_sections(settings))
    key = dice.choice([*section, "bits", "group_size", "mode", "sparsity_config", "quant_method"])
    if dice.random() < 0.15:
        section.pop(key, None)
    else:
        section[key] = deepcopy(dice.choice(VALUES))


def _damage_array(arrays: dict[str, tuple[str, np.ndarray]], dice: random.Random) -> None:
    suffix = dice.choice(list(arrays))
    dtype, values = arrays[suffix]
    match dice.randrange(7):
        case 0:
            del arrays[suffix]
        case 1:
            arrays[suffix] = dice.choice(DTYPES), values
        case 2:
            arrays[suffix] = dtype, values.T.copy()
        case 3:
            arrays[suffix] = dtype, values[:0] if values.ndim else values.reshape(1, 1)
        case 4:
            flat = values.reshape(-1)
            arrays[suffix] = dtype, flat[: dice.randrange(1 + len(flat))]
        case 5:
            changed = np.frombuffer(dice.randbytes(values.nbytes), values.dtype).reshape(values.shape)
            arrays[suffix] = dtype, changed
        case _:
            fill = dice.choice([0, 255])
            arrays[suffix] = dtype, np.full(values.nbytes, fill, np.uint8).view(values.dtype).reshape(values.shape)


def _damage_state(arrays: dict[str, tuple[str, np.ndarray]], dice: random.Random) -> None:
    """The JSON text among the arrays of bitsandbytes and of the native format."""
    for name in arrays.keys() & {"weight.quant_state.bitsandbytes__nf4", "weight.quantization"}:
        state = json.loads(arrays[name][1].tobytes())
        section = dice.choice(_sections(state))
        section[dice.choice(list(section))] = dice.choice(VALUES)
        arrays[name] = "U8", np.frombuffer(json.dumps(state).encode(), np.uint8)


def _damage_file(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    length = int.from_bytes(data[:8], "little")
    for _ in range(dice.randrange(1, 4)):
        changed[dice.randrange(8 + length)] = dice.randrange(256)
    return bytes(changed[: dice.randrange(len(data))] if dice.random() < 0.3 else changed)


def _use(directory: Path, settings: Any) -> None:
    """What loading does with a file."""
    entries = canonical_entries(read_entries(directory), str(directory))
    format_ = find_format(directory, {"quantization_config": settings}, entries)
    format_.describe()
    for tensor in format_.tensors(entries, {NAME: SHAPE}, str(directory), False).values():
        if isinstance(tensor, QuantizedTensor):
            kernel_of(tensor)
        values = tensor.dequantize()
        assert values.shape == SHAPE
        assert np.isfinite(values).all()


@pytest.mark.parametrize("sample", SAMPLES)
def test_settings_belong_to_one_format(sample: str) -> None:
    takers = [name for name, reader in READERS.items() if reader(SAMPLES[sample][0], "config.json", {})]
    assert takers == [sample.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0]]


@pytest.mark.parametrize("sample", SAMPLES)
def test_random_damage(tmp_path: Path, sample: str) -> None:
    settings, arrays = SAMPLES[sample]
    file = tmp_path / "model.safetensors"

    def write(arrays: Arrays, change: Callable[[bytes], bytes] = bytes) -> None:
        file.write_bytes(change(encode({f"{MODULE}.{suffix}": array for suffix, array in arrays.items()})))

    write(arrays)
    _use(tmp_path, settings)
    errors = []
    for round_ in range(ROUNDS):
        dice = random.Random(round_)
        changed_settings, changed_arrays = deepcopy(settings), dict(arrays)
        damage = round_ % 4
        if damage == 0:
            _damage_settings(changed_settings, dice)
        elif damage == 1:
            _damage_array(changed_arrays, dice)
        elif damage == 2:
            _damage_state(changed_arrays, dice)
            _damage_settings(changed_settings, dice)
        write(changed_arrays, partial(_damage_file, dice=dice) if damage == 3 else bytes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # scales that are random bits overflow
            try:
                _use(tmp_path, changed_settings)
            except PocketVLMError as error:
                errors.append(str(error))
    assert len(errors) > ROUNDS // 4
    files = [str(tmp_path / name) for name in ("model.safetensors", "config.json")]
    unnamed = [error for error in errors if not any(name in error for name in (*files, f"{tmp_path}: the tensors"))]
    assert not unnamed
