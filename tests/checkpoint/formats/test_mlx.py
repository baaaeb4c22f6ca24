"""MLX files by their description: packing, modes, layouts, norms, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import MODULE, NAME, bfloat16, read, read_matrix
from word_kit import packed

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e8m0
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import DenseTensor, LazyArray, QuantizedTensor

THEIRS = "language_model.model.layers.0.mlp.up_proj"
LAYER = "model.language_model.layers.0."


def config(group: int, bits: int, mode: str | None = "affine", **modules: Any) -> dict[str, Any]:
    settings = {"group_size": group, "bits": bits, **({"mode": mode} if mode else {}), **modules}
    return {"quantization": settings, "quantization_config": settings}


def affine(codes: np.ndarray, bits: int, group: int) -> dict[str, tuple[str, np.ndarray]]:
    """A matrix with these codes; scale and bias of a group are its number, and some scales are negative or zero."""
    shape = codes.shape[0], codes.shape[1] // group
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    scales = bfloat16(index % 5 - 2.0)
    return {"weight": ("U32", packed(codes, bits)), "scales": ("BF16", scales), "biases": ("BF16", bfloat16(index))}


def random_codes(bits: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 2**bits, shape).astype(np.uint8)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("mode", ["affine", None])
def test_affine_groups(tmp_path: Path, bits: int, group: int, mode: str | None) -> None:
    codes = random_codes(bits, (3, 256))
    tensor = read_matrix(tmp_path, affine(codes, bits, group), config(group, bits, mode), codes.shape, THEIRS)
    assert isinstance(tensor, QuantizedTensor)
    assert isinstance(tensor.codes, LazyArray)
    index = np.arange(codes.size) // group
    expected = (index % 5 - 2.0) * codes.reshape(-1) + index
    np.testing.assert_array_equal(tensor.dequantize(), expected.reshape(codes.shape).astype(np.float32))


def test_a_row_that_mlx_wrote(tmp_path: Path) -> None:
    """Five bits, from 0 to 31 in steps: the library chose scale -1 and bias 31."""
    values = np.array([0, 31, 7, 10, 13, 16, 19, 22])
    codes = np.tile(31 - values, 8)[None].astype(np.uint8)
    parts = {"scales": ("BF16", bfloat16([[-1]])), "biases": ("BF16", bfloat16([[31]]))}
    words = packed(codes, 5)
    assert words.tobytes()[:5].hex() == "1fe02a1f4b"
    tensor = read_matrix(tmp_path, {"weight": ("U32", words), **parts}, config(64, 5), (1, 64))
    assert tensor.dequantize()[0, :8].tolist() == values.tolist()


@pytest.mark.parametrize(("mode", "group", "bits"), [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)])
def test_small_floats(tmp_path: Path, mode: str, group: int, bits: int) -> None:
    codes = random_codes(bits, (2, 64)) & (0x7F if bits == 8 else 0xFF)
    codes[codes == 0x7F] = 1  # not a number
    scales = np.arange(2 * 64 // group, dtype=np.uint8).reshape(2, -1) + 120 * (mode != "nvfp4")
    parts = {"weight": ("U32", packed(codes, bits)), "scales": ("U8", scales)}
    tensor = read_matrix(tmp_path, parts, config(group, bits, mode), codes.shape)
    levels, exponents = (e4m3() if bits == 8 else e2m1()), (e4m3() if mode == "nvfp4" else e8m0())
    expected = levels[codes] * np.repeat(exponents[scales], group, axis=1)
    np.testing.assert_array_equal(tensor.dequantize(), expected)


def test_settings_of_single_modules(tmp_path: Path) -> None:
    """An object counts; whether true or false, a module with scales is quantized and one without is not."""
    names = [f"{LAYER}mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    codes = [random_codes(bits, (2, 64)) for bits in (8, 4)]
    arrays: dict[str, tuple[str, np.ndarray]] = {}
    for name, its, bits in zip(names[:2], codes, (8, 4), strict=True):
        base = name.replace("model.language_model.", "language_model.model.").removesuffix("weight")
        arrays |= {base + part: value for part, value in affine(its, bits, 32).items()}
    arrays["language_model.model.layers.0.mlp.down_proj.weight"] = ("BF16", bfloat16(np.eye(64)))
    stem = "language_model.model.layers.0.mlp."
    own = {f"{stem}gate_proj": {"group_size": 32, "bits": 8}, f"{stem}up_proj": False, f"{stem}down_proj": True}
    shapes = dict(zip(names, ((2, 64), (2, 64), (64, 64)), strict=True))
    tensors = read(tmp_path, arrays, config(32, 4, **own), shapes, shards=2)
    assert [getattr(tensor, "bits", 16) for tensor in tensors.values()] == [8, 4, 16]
    for name, its in zip(names, codes, strict=False):
        np.testing.assert_array_equal(tensors[name].codes.read(), its)  # type: ignore[union-attr]


SHAPES: dict[str, tuple[int, ...]] = {
    f"{LAYER}linear_attn.conv1d.weight": (6, 1, 4),
    "model.vision_tower.embeddings.patch_embedding.weight": (5, 3, 14, 14),
    f"{LAYER}input_layernorm.weight": (8,),
    f"{LAYER}linear_attn.norm.weight": (8,),
    "model.language_model.norm.weight": (8,),
    "model.vision_tower.vit_merger.pre_norm.weight": (8,),
}


def converted(norm: float, shift: float) -> dict[str, tuple[str, np.ndarray]]:
    """The tensors of SHAPES as mlx-vlm stores them; the norms' weights lie around `norm`, plus `shift`."""
    random = np.random.default_rng(0)
    conv, patch = (
        np.arange(np.prod(SHAPES[name]), dtype=np.float32).reshape(SHAPES[name]) for name in list(SHAPES)[:2]
    )
    weight = norm + random.normal(0, 0.3, 8)
    stored = (weight + shift).astype(np.float32)
    return {
        "language_model.model.layers.0.linear_attn.conv1d.weight": ("F32", conv.transpose(0, 2, 1)),
        "vision_tower.embeddings.patch_embedding.weight": ("F32", patch.transpose(0, 2, 3, 1)),
        "language_model.model.layers.0.input_layernorm.weight": ("F32", stored),
        "language_model.model.layers.0.linear_attn.norm.weight": ("F32", weight.astype(np.float32)),
        "language_model.model.norm.weight": ("F32", stored),
        "vit_merger.pre_norm.weight": ("F32", weight.astype(np.float32)),
    }


def contiguous(arrays: dict[str, tuple[str, np.ndarray]]) -> dict[str, tuple[str, np.ndarray]]:
    return {name: (dtype, np.ascontiguousarray(values)) for name, (dtype, values) in arrays.items()}


@pytest.mark.parametrize("settings", [{}, config(64, 4)])
def test_layouts_and_norms_are_undone(tmp_path: Path, settings: dict[str, Any]) -> None:
    arrays = contiguous(converted(0.0, 1.0))
    tensors = read(tmp_path, arrays, settings, SHAPES)
    values = [tensor.dequantize() for tensor in tensors.values()]
    for found in values[:2]:
        np.testing.assert_array_equal(found, np.arange(found.size).reshape(found.shape))
    stored = arrays["language_model.model.norm.weight"][1]
    for found in (values[2], values[4]):
        np.testing.assert_array_equal(found, stored - 1)
        np.testing.assert_array_equal(1 + found, stored)
    for found in (values[3], values[5]):
        np.testing.assert_array_equal(found, arrays["vit_merger.pre_norm.weight"][1])
    assert all(isinstance(tensor, DenseTensor) for tensor in tensors.values())


def test_norms_of_a_file_in_the_hubs_layout_stay(tmp_path: Path) -> None:
    """A convolution that was not transposed says that nothing was added to norms either."""
    arrays = converted(0.0, 0.0)
    for name in list(arrays)[:2]:
        arrays[name] = ("F32", np.zeros(next(SHAPES[own] for own in SHAPES if own.endswith(name[-20:])), np.float32))
    tensors = read(tmp_path, contiguous(arrays), config(64, 4), SHAPES)
    name = f"{LAYER}input_layernorm.weight"
    np.testing.assert_array_equal(tensors[name].dequantize(), arrays["language_model.model.norm.weight"][1])


def test_norms_that_were_shifted_twice_are_refused_when_they_are_read(tmp_path: Path) -> None:
    tensors = read(tmp_path, contiguous(converted(0.0, 2.0)), {}, SHAPES)
    with pytest.raises(TensorError, match=r"1 was added twice to the norms .* only 0 of 16 .* convert the original"):
        tensors["model.language_model.norm.weight"].dequantize()


@pytest.mark.parametrize("norm", [0.0, 0.6])
def test_norms_that_are_all_alike_are_not_refused(tmp_path: Path, norm: float) -> None:
    arrays = converted(0.0, 1.0)
    same = ("F32", np.full(8, 1 + norm, np.float32))
    some = ("F32", np.array([0.75, *[1 + norm] * 7], np.float32))
    arrays["language_model.model.norm.weight"] = same
    arrays["language_model.model.layers.0.input_layernorm.weight"] = same if norm < 0.5 else some
    tensors = read(tmp_path, contiguous(arrays), {}, SHAPES)
    assert tensors["model.language_model.norm.weight"].dequantize().tolist() == (same[1] - 1).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 64, "bits": 7}, "bits=7 is not supported with mode 'affine', only 2, 3, 4, 5, 6, 8$"),
        ({"group_size": 48, "bits": 4}, "group_size=48 is not supported"),
        ({"group_size": 64, "bits": "4"}, "bits='4' is not supported"),
        ({"group_size": 64, "bits": 4, "mode": "mxfp6"}, "mode='mxfp6' is not supported"),
        ({"group_size": 16, "bits": 4, "mode": "mxfp4"}, "group_size=16 is not supported"),
        ({"group_size": 64, "bits": 4, "lm_head": 8}, "lm_head=8 is not supported"),
        ({"group_size": 64, "bits": 4, "lm_head": {"bits": 1}}, "lm_head: bits=1 is not supported"),
        ({"group_size": 64, "bits": 4, "no.such": {"bits": 4}}, "'no.such' is no module of this model"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    parts = affine(random_codes(4, (2, 64)), 4, 64)
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path, parts, {"quantization": settings}, (2, 64))


def without(name: str) -> Any:
    return lambda parts: {key: value for key, value in parts.items() if key != name}


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        (without("biases"), (2, 64), r"up_proj.biases: the array is missing"),
        (without("scales"), (2, 64), r"up_proj.scales: the array is missing"),
        (without("weight"), (2, 64), r"up_proj.weight: the array is missing, the file has only biases, scales"),
        (lambda parts: parts, (2, 96), r"groups of 64 do not divide 96 columns"),
        (
            lambda parts: parts,
            (2, 128),
            r"up_proj.weight: \[2, 8\] words do not hold 2 x 128 codes of 4 bits, .* 16 a row would",
        ),
        (lambda parts: parts, (2, 8, 8), r"shape \[2, 8, 8\] is quantized, only matrices can be"),
        (lambda parts: {**parts, "scales": ("I16", np.zeros((2, 1), "<i2"))}, (2, 64), "dtype I16 does not belong"),
        (lambda parts: {**parts, "scales": ("F32", np.zeros((2, 2), "<f4"))}, (2, 64), r"up_proj.scales: shape \[2, 2"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, change: Any, shape: Any, message: str) -> None:
    parts = change(affine(random_codes(4, (2, 64)), 4, 64))
    with pytest.raises(TensorError, match=message):
        read_matrix(tmp_path, parts, config(64, 4), shape)


def test_a_quantized_matrix_without_settings_is_refused(tmp_path: Path) -> None:
    arrays = contiguous(converted(0.0, 1.0)) | {
        f"{MODULE}.{part}": value for part, value in affine(random_codes(4, (2, 64)), 4, 64).items()
    }
    with pytest.raises(TensorError, match=r"config\.json has no quantization settings"):
        read(tmp_path, arrays, {}, {**SHAPES, NAME: (2, 64)})
