"""What pocketvlm writes, the formats' own libraries load, with equal values: AutoAWQ, AutoGPTQ, MLX and the others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_kit import TYPES, write_pair
from library_sources import convert_to_gguf, load, mlx_vlm
from safetensors.torch import load_file
from test_nano import assert_answers

from pocketvlm.api import load as load_model
from pocketvlm.api.converting import convert_model
from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.checkpoint.formats.mlx import is_zero_centred
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.mlx import mlx_name
from pocketvlm.checkpoint.writers.output import write_checkpoint
from pocketvlm.checkpoint.writers.registry import WRITERS
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize.methods import nearest
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import QuantizedTensor, Tensor

pytestmark = pytest.mark.formats

PUBLISHED = re.compile(
    r"model\.language_model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|mlp\.(gate|up|down)_proj)\.weight"
)


def dequantize(kind: str, rows: np.ndarray) -> np.ndarray:
    _, values, nbytes, _ = TYPES[kind]
    return unpack_matrix("m", kind, (len(rows), rows.shape[1] // nbytes * values), lambda: rows).dequantize()


def write_nano(
    format: str, scheme: str, out: Path, others: tuple[str, ...] = (), permuted: bool = False
) -> dict[str, QuantizedTensor]:
    """`nano` with the matrices of published checkpoints, and those with these roles, in a scheme; the matrices."""
    checkpoint = read_checkpoint(embedded_directory())
    roles, how = tensor_roles(checkpoint.model), tensor_scheme(scheme)

    def tensor(name: str, its: Tensor) -> Tensor:
        chosen = PUBLISHED.fullmatch(name) or roles[name] in others
        if not chosen or len(its.shape) != 2 or how.problem((its.shape[0], its.shape[1])):
            return its
        found = nearest(name, its.dequantize(), how)
        if not permuted:
            return found
        order = np.random.default_rng(len(name)).permutation(found.shape[1])
        return QuantizedTensor(
            name, found.bits, found.shape, found.codes, found.scales, found.zero_points, permutation=order
        )

    tensors = {name: tensor(name, its) for name, its in checkpoint.tensors(expected_tensors(checkpoint.model)).items()}
    write_checkpoint(WRITERS[format], checkpoint, tensors, roles, out, scheme)
    return {name: its for name, its in tensors.items() if isinstance(its, QuantizedTensor)}


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64", "int4-g32-sym"])
def test_autoawq_unpacks_awq(tmp_path: Path, scheme: str) -> None:
    """It multiplies in float16, to which exact products of 4-bit codes and float16 scales are rounded."""
    matrices = write_nano("awq", scheme, tmp_path / "out")
    arrays, group = load_file(tmp_path / "out" / "model.safetensors"), int(scheme.split("-")[1][1:])
    packing = load("autoawq_packing")
    for name, matrix in matrices.items():
        parts = [arrays[name.replace("weight", suffix)] for suffix in ("qweight", "qzeros", "scales")]
        values = packing.dequantize_gemm(*parts, 4, group).T.numpy()
        assert np.array_equal(values, matrix.dequantize().astype(np.float16)), name


@pytest.mark.parametrize(
    ("scheme", "permuted"),
    [("int4-g32", False), ("int4-g64-sym", False), ("int8-g64", False), ("int3-g32-sym", False), ("int4-g32", True)],
)
def test_autogptq_multiplies_by_gptq(tmp_path: Path, scheme: str, permuted: bool) -> None:
    """Its layer loads the arrays and gives the values for unit vectors, also with the order of inputs."""
    matrices = write_nano("gptq", scheme, tmp_path / "out", permuted=permuted)
    settings = json.loads((tmp_path / "out" / "quantize_config.json").read_text())
    if settings["checkpoint_format"] != "gptq":
        pytest.skip("a zero point is 0: AutoGPTQ does not know version 2")
    assert settings["desc_act"] == permuted
    arrays, layer = load_file(tmp_path / "out" / "model.safetensors"), load("autogptq_layer")
    for name, matrix in list(matrices.items())[:8]:
        outputs, inputs = matrix.shape
        module = layer.QuantLinear(
            matrix.bits, settings["group_size"], inputs, outputs, False, weight_dtype=torch.float32
        )
        prefix = name.removesuffix("weight")
        parts = {suffix: arrays[prefix + suffix] for suffix in ("qweight", "qzeros", "g_idx")}
        module.load_state_dict({**parts, "scales": arrays[f"{prefix}scales"]})
        module.autogptq_cuda_available = False
        module.scales = module.scales.float()
        values = module(torch.eye(inputs)).T.numpy()
        assert np.abs(values - matrix.dequantize()).max() <= 1e-6, name


@pytest.mark.parametrize(
    "scheme", ["int4-g64-bias", "int3-g32-bias", "int6-g64-bias", "Q4_0", "mxfp4", "mxfp8", "nvfp4-mlx"]
)
def test_mlx_dequantizes_mlx(tmp_path: Path, scheme: str) -> None:
    """Every array loads; each matrix has the values that MLX computes in float32."""
    mx = import_module("mlx.core")
    matrices = write_nano("mlx", scheme, tmp_path / "out", ("tied_embedding", "vision_matrix"))
    arrays: dict[str, Any] = mx.load(str(tmp_path / "out" / "model.safetensors"))
    section = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert len(matrices) > 20
    for name, matrix in matrices.items():
        module = mlx_name(name).removesuffix(".weight")
        parts = [
            arrays[f"{module}.{suffix}"] for suffix in ("weight", "scales", "biases") if f"{module}.{suffix}" in arrays
        ]
        if section["mode"] == "affine":
            parts[1:] = [part.astype(mx.float32) for part in parts[1:]]
        kind = {key: section[key] for key in ("group_size", "bits", "mode")}
        values = np.array(mx.dequantize(*parts, **kind).astype(mx.float32))
        assert np.array_equal(values, matrix.dequantize()), name


@pytest.mark.parametrize(("scheme", "tolerance"), [("int4-g64-bias", 0.1), ("Q4_0", 2e-3), ("mxfp4", 0.1)])
def test_mlx_vlm_loads_mlx(tmp_path: Path, scheme: str, tolerance: float) -> None:
    """Strictly: each of its parameters is there. It computes in bfloat16, or, with float16 scales, in float32."""
    mx = import_module("mlx.core")
    write_nano("mlx", scheme, tmp_path / "out", ("tied_embedding",))
    model = mlx_vlm().load_model(tmp_path / "out")
    ids = [5, 17, 99, 203, 44, 1000, 7, 8, 31]
    found = np.array(model.language_model(mx.array([ids])).logits.astype(mx.float32))[0]
    with load_model(tmp_path / "out", precision="exact", cache=False, threads=2) as ours:
        prompt = ours.processor([{"role": "user", "content": "hi"}])
        expected = ours.logits(replace(prompt, ids=np.array(ids, prompt.ids.dtype)))
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64-sym", "int8-g64", "int8", "mxfp4", "mxfp8", "nvfp4"])
def test_compressed_tensors_decompresses(tmp_path: Path, scheme: str) -> None:
    """The library parses the settings, and its own compressor gives the values."""
    from compressed_writer import compressor, exact

    matrices = write_nano("compressed-tensors", scheme, tmp_path / "out")
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    section = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    parsed = import_module("compressed_tensors.quantization").QuantizationConfig.model_validate(section)
    (group,) = parsed.config_groups.values()
    for name, matrix in matrices.items():
        prefix = name.removesuffix("weight")
        stored = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        if stored["weight_scale"].dtype == torch.float16:  # the library would compute in this type
            stored["weight_scale"] = stored["weight_scale"].float()
        values = exact(compressor(group.format), stored, group).numpy()
        assert np.array_equal(values, matrix.dequantize()), name


@pytest.mark.filterwarnings("ignore:You passed")
@pytest.mark.parametrize("scheme", ["int4-g32", "int8", "mxfp4"])
def test_transformers_loads_compressed_tensors(tmp_path: Path, scheme: str) -> None:
    transformers = import_module("transformers")
    matrices = write_nano("compressed-tensors", scheme, tmp_path / "out")
    how = transformers.CompressedTensorsConfig(dequantize=True)
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", quantization_config=how, dtype=torch.float32
    )
    parameters = dict(model.named_parameters())
    for name, matrix in matrices.items():
        found = parameters[name].detach().float().numpy()
        assert np.abs(found - matrix.dequantize()).max() <= 2**-8 * np.abs(matrix.dequantize()).max(), name


@pytest.mark.parametrize("format", ["bf16", "f16"])
def test_transformers_loads_dense_checkpoints(tmp_path: Path, format: str) -> None:
    """With the type that config.json names, and every value."""
    transformers = import_module("transformers")
    matrices = write_nano("native", "int4-g64", tmp_path / "native")
    convert_model(tmp_path / "native", tmp_path / "out", format=format)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[format]
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype, name
        if name in matrices:
            assert torch.equal(parameter, torch.from_numpy(matrices[name].dequantize()).to(dtype)), name
    transformers.AutoProcessor.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("format", "scheme"),
    [("gptq", "int4-g64"), ("gptq", "int2-g32"), ("compressed-tensors", "int4-g64"), ("compressed-tensors", "nvfp4")],
)
def test_llama_cpp_converts(tmp_path: Path, format: str, scheme: str) -> None:
    """Its converter gives the values of the matrices; with 2 bits there are zero points 0, and version 2 of GPTQ."""
    matrices = write_nano(format, scheme, tmp_path / "out", permuted=(format, scheme) == ("gptq", "int4-g64"))
    convert_to_gguf(tmp_path / "out", tmp_path / "out.gguf")
    checkpoint = open_checkpoint(tmp_path / "out.gguf")
    found = checkpoint.tensors(expected_tensors(checkpoint.model))
    for name, matrix in matrices.items():
        values = matrix.dequantize()
        # It divides by the global scale of NVFP4 before it multiplies.
        assert np.abs(found[name].dequantize() - values).max() <= (1e-6 if scheme == "nvfp4" else 0), name


def test_transformers_loads_what_was_a_gguf_pair(tmp_path: Path) -> None:
    """config.json and the tokenizer, which are made of metadata, give the ids and the logits of the pair."""
    transformers = import_module("transformers")
    pair = write_pair(tmp_path / "pair", dequantize, ["Q8_0"])
    convert_model(pair.text, tmp_path / "out", format="bf16")
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "What is 1 + 1? Straße, 漢字"}]
    inputs = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    with torch.no_grad():
        expected = theirs(**inputs).logits[0, -1].numpy()
    with load_model(tmp_path / "out", precision="exact", cache=False, threads=2) as ours:
        prompt = ours.processor(messages)
        assert np.array_equal(prompt.ids, inputs["input_ids"][0].numpy())
        found = ours.logits(prompt)
    assert np.linalg.norm(found.reshape(-1, found.shape[-1])[-1] - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("format", "scheme"), [("awq", "int4-g64"), ("gptq", "int4-g32"), ("mlx", "int4-g32-bias"), ("native", "Q4_0")]
)
def test_nano_still_answers(tmp_path: Path, format: str, scheme: str) -> None:
    write_nano(format, scheme, tmp_path / "out")
    assert_answers(tmp_path / "out", "fast")


def test_norms_of_mlx_are_those_of_mlx(tmp_path: Path) -> None:
    mx = import_module("mlx.core")
    write_nano("mlx", "int4-g64-bias", tmp_path / "out")
    arrays = mx.load(str(tmp_path / "out" / "model.safetensors"))
    dense = load_file(embedded_directory() / "model.safetensors")
    names = [name for name in dense if is_zero_centred(name)]
    assert names
    for name in names:
        expected = mx.array(dense[name].float().numpy()).astype(mx.bfloat16) + 1.0
        assert mx.array_equal(arrays[mlx_name(name)], expected).item(), name
