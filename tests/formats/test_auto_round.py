"""Checkpoints that AutoRound's packers wrote have the values that its own layers compute, in all of its formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle import Oracle, make_prompt, reference_logits
from quantized_checkpoint import write_quantized
from word_kit import Arrays, Matrix, random_matrix, round_matrix

import pocketvlm
from pocketvlm.api.parts import quantization_of
from pocketvlm.checkpoint.formats.format import ModuleFormat, StoredArray
from pocketvlm.checkpoint.formats.registry import READERS
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import QuantizedTensor

pytestmark = pytest.mark.formats

Packed = tuple[dict[str, torch.Tensor], NDArray[np.float16]]
Packer = Callable[[Matrix, bool], Packed]
GROUP = 64


def along_inputs(layer: str) -> Packer:
    """AutoRound's layer of that module: its arrays, and what it multiplies with, in float16."""

    def pack(matrix: Matrix, symmetric: bool) -> Packed:
        module = __import__(f"auto_round_extension.torch.{layer}", fromlist=["QuantLinear"]).QuantLinear
        outputs, inputs = matrix.codes.shape
        packed = module(matrix.bits, GROUP, inputs, outputs, False)
        packed.device = "cpu"
        zeros = int(matrix.zeros.flat[0]) if symmetric else torch.from_numpy(matrix.zeros).float()
        packed.pack(linear(matrix), torch.from_numpy(matrix.scales).float(), zeros, None, "cpu")
        values = packed(torch.eye(inputs, dtype=torch.float16)).T.contiguous().numpy()
        return {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}, values

    return pack


def along_outputs(matrix: Matrix, symmetric: bool) -> Packed:
    from auto_round.export.export_to_awq.utils import WQLinear_GEMM, dequantize_gemm

    zeros = int(matrix.zeros.flat[0]) if symmetric else torch.from_numpy(matrix.zeros).float().T.contiguous()
    scales = torch.from_numpy(matrix.scales).float().T.contiguous()
    packed = WQLinear_GEMM.from_linear(linear(matrix), matrix.bits, GROUP, scales=scales, zeros=zeros, device="cpu")
    values = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, matrix.bits, GROUP).T.contiguous().numpy()
    return {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}, values


def linear(matrix: Matrix) -> torch.nn.Linear:
    outputs, inputs = matrix.codes.shape
    layer = torch.nn.Linear(inputs, outputs, bias=False)
    layer.weight.data = torch.from_numpy(matrix.values())
    return layer


GPTQ = {"quant_method": "gptq", "desc_act": False, "provider": "auto-round"}
AWQ = {"quant_method": "awq", "version": "gemm", "provider": "auto-round"}
OWN = {"quant_method": "auto-round", "data_type": "int"}
CASES: list[tuple[dict[str, Any], Packer, tuple[int, ...]]] = [
    (GPTQ, along_inputs("qlinear_torch_zp"), (2, 3, 4, 8)),
    (AWQ, along_outputs, (4,)),
    ({**OWN, "packing_format": "auto_round"}, along_inputs("qlinear_torch"), (2, 3, 4, 5, 6, 7, 8)),
    ({**OWN, "packing_format": "auto_round:gptqmodel"}, along_inputs("qlinear_torch"), (4,)),
    ({**OWN, "packing_format": "auto_round:auto_gptq"}, along_inputs("qlinear_torch_zp"), (2, 3, 4, 5, 6, 7, 8)),
    ({**OWN, "packing_format": "auto_round:auto_awq"}, along_outputs, (4, 5, 6, 7)),
]


def described(settings: dict[str, Any], bits: int, symmetric: bool) -> dict[str, Any]:
    return {**settings, "bits": bits, "group_size": GROUP, "sym": symmetric, "zero_point": not symmetric}


def stored(parts: dict[str, torch.Tensor]) -> Arrays:
    dtypes = {torch.int32: "I32", torch.float16: "F16"}
    return {part: (dtypes[array.dtype], array.numpy()) for part, array in parts.items()}


@pytest.mark.parametrize(
    ("settings", "packer", "bits"),
    [(settings, packer, bits) for settings, packer, all_bits in CASES for bits in all_bits],
    ids=lambda value: str(value.get("packing_format", value["quant_method"])) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_matrices(settings: dict[str, Any], packer: Packer, bits: int, symmetric: bool) -> None:
    matrix = random_matrix(96, 4 * GROUP, bits, GROUP, symmetric=symmetric)
    parts, theirs = packer(matrix, symmetric)
    whole = described(settings, bits, symmetric)
    (found,) = [found for reader in READERS.values() if (found := reader(whole, "config.json", {})) is not None]
    assert isinstance(found, ModuleFormat)
    arrays = {part: StoredArray(dtype, values) for part, (dtype, values) in stored(parts).items()}
    tensor = found.matrix("m.weight", (96, 4 * GROUP), arrays)
    np.testing.assert_array_equal(tensor.dequantize(), matrix.values())
    np.testing.assert_array_equal(tensor.dequantize().astype(np.float16), theirs)


@pytest.mark.parametrize(
    ("settings", "packer"), [case[:2] for case in CASES], ids=["GPTQ", "AWQ", "raw", "GPTQModel", "AutoGPTQ", "AutoAWQ"]
)
def test_packed_checkpoints(tmp_path: Path, settings: dict[str, Any], packer: Packer) -> None:
    theirs: dict[str, NDArray[np.float16]] = {}

    def quantize(name: str, weight: NDArray[np.float32]) -> tuple[Arrays, NDArray[np.float32]]:
        matrix = round_matrix(weight, 4, GROUP, min_zero=1)
        parts, theirs[name] = packer(matrix, False)
        return stored(parts), matrix.values()

    oracle = write_quantized(tmp_path, described(settings, 4, False), quantize)
    compare(tmp_path, oracle, theirs)


def compare(directory: Path, oracle: Oracle, theirs: dict[str, NDArray[np.float16]]) -> None:
    """Values rounded to float16 are the library's, and logits those of transformers."""
    checkpoint = read_checkpoint(directory)
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
    quantized = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}
    assert quantized.keys() == theirs.keys()
    for name, tensor in quantized.items():
        np.testing.assert_array_equal(tensor.dequantize().astype(np.float16), theirs[name])
    prompt = make_prompt(oracle.config, [(8, 8)], seed=1)
    reference = reference_logits(oracle, prompt)
    for backend in ("native", "torch"):
        with pocketvlm.load(directory, backend=backend, precision="exact", threads=2, cache=False) as model:  # type: ignore[arg-type]
            assert np.abs(model.logits(prompt) - reference).max() < 2e-5 * np.abs(reference).max()


@pytest.mark.parametrize(("symmetric", "packing"), [(True, "auto_round:auto_gptq"), (False, "auto_round")])
def test_a_checkpoint_that_auto_round_wrote_itself(tmp_path: Path, symmetric: bool, packing: str) -> None:
    """Rounded to nearest, so that no calibration data is needed; it quantizes the gates too."""
    from auto_round import AutoRound
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp
    from safetensors.torch import load_file

    source, target = tmp_path / "source", tmp_path / "target"
    oracle = write_quantized(source, {}, lambda *_: pytest.fail("nothing is quantized here"), modules=())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tool = AutoRound(
        str(source), bits=4, group_size=GROUP, sym=symmetric, iters=0, disable_opt_rtn=True, enable_torch_compile=False
    )
    tool.quantize_and_save(str(target), format="auto_round")
    (found,) = target.rglob("config.json")
    settings = json.loads(found.read_text(encoding="utf-8"))["quantization_config"]
    assert settings["packing_format"] == packing
    module_of = qlinear_torch_zp if packing == "auto_round:auto_gptq" else qlinear_torch
    written = load_file(found.parent / "model.safetensors")
    theirs = {}
    parameters = dict(oracle.model.named_parameters())
    for name in [name for name in written if name.endswith(".qweight")]:
        module = name.removesuffix("qweight")
        outputs, inputs = parameters[f"{module}weight"].shape
        layer = module_of.QuantLinear(4, GROUP, inputs, outputs, False)
        for part in ("qweight", "qzeros", "scales"):
            setattr(layer, part, written[module + part])
        theirs[f"{module}weight"] = layer(torch.eye(inputs, dtype=torch.float16)).T.contiguous().numpy()
    assert any("in_proj_a" in name for name in theirs)
    checkpoint = read_checkpoint(found.parent)
    assert quantization_of(checkpoint) == f"AutoRound, 4 bits, groups of {GROUP}"
    with torch.no_grad():
        for name, tensor in checkpoint.tensors(expected_tensors(checkpoint.model)).items():
            parameters[name].copy_(torch.from_numpy(np.array(tensor.dequantize())))
    compare(found.parent, oracle, theirs)
