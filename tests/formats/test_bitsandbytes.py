"""bitsandbytes checkpoints whose matrices bitsandbytes itself quantized."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from bitsandbytes_writer import dequantize, four_bits, settings
from small_checkpoint import assert_changes, assert_same_logits, matrices, weights, write

from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import expected_tensors

pytestmark = pytest.mark.formats

STORAGES = {"uint8": torch.uint8, "bfloat16": torch.bfloat16, "float32": torch.float32}


@pytest.mark.parametrize(
    ("kind", "nested", "storage", "blocksize"),
    [
        ("nf4", True, "uint8", 64),
        ("nf4", False, "bfloat16", 64),
        ("fp4", True, "float32", 64),
        ("fp4", False, "uint8", 64),
        ("nf4", True, "uint8", 128),
        ("nf4", True, "bfloat16", 4096),
    ],
)
def test_every_linear_layer_in_4_bits(tmp_path: Path, kind: str, nested: bool, storage: str, blocksize: int) -> None:
    tensors = weights()
    options = {"quant_type": kind, "compress_statistics": nested, "blocksize": blocksize}
    values = four_bits(tensors, matrices(), **options, quant_storage=STORAGES[storage])
    assert_changes(values)
    write(tmp_path, tensors, quantization_config=settings(kind, nested))
    described = f"bitsandbytes {kind.upper()}{', double quantization' * nested}, 4 bits, blocks of {blocksize}"
    assert_same_logits(tmp_path, values, described)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("nested", [True, False])
def test_values_are_those_of_the_library_in_its_type(tmp_path: Path, nested: bool, dtype: torch.dtype) -> None:
    """Bit for bit, also where blocks straddle rows and where the last one is not full."""
    functional = import_module("bitsandbytes").functional
    tensors = {name: tensor.to(dtype) for name, tensor in weights().items()}
    expected = {}
    for name in matrices():
        packed, state = functional.quantize_4bit(tensors[name], quant_type="nf4", compress_statistics=nested)
        tensors[name] = packed
        tensors |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
        expected[name] = dequantize(packed, state, dtype)
    write(tmp_path, tensors, quantization_config=settings("nf4", nested))
    checkpoint = read_checkpoint(tmp_path)
    found = checkpoint.tensors(expected_tensors(checkpoint.model))
    for name, values in expected.items():
        assert torch.equal(torch.from_numpy(found[name].dequantize()).to(dtype), values), name


def test_llm_int8(tmp_path: Path) -> None:
    functional = import_module("bitsandbytes").functional
    tensors, values = weights(), {}
    for name in matrices():
        codes, scales, _ = functional.int8_vectorwise_quant(tensors[name].half())
        tensors[name] = codes
        tensors[name.replace("weight", "SCB")] = scales
        tensors[name.replace("weight", "weight_format")] = torch.tensor(0, dtype=torch.uint8)
        values[name] = functional.int8_vectorwise_dequant(codes, scales).numpy()
    assert_changes(values)
    quantization = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    write(tmp_path, tensors, quantization_config=quantization)
    assert_same_logits(tmp_path, values, "bitsandbytes LLM.int8(), 8 bits, one scale an output")


def test_saved_by_transformers(tmp_path: Path) -> None:
    """The whole model quantized by transformers, and saved by it."""
    transformers = import_module("transformers")
    import_module("bitsandbytes")
    import_module("accelerate")
    dense, quantized = tmp_path / "dense", tmp_path / "quantized"
    write(dense, weights())
    asked = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head"],
    )
    model = transformers.MiniCPMV4_6ForConditionalGeneration.from_pretrained(
        dense, quantization_config=asked, device_map="cpu", dtype=torch.float32
    )
    write(quantized)
    model.save_pretrained(quantized)
    values = four_bits(weights(), matrices(), quant_type="nf4", compress_statistics=True)
    assert_same_logits(quantized, values, "bitsandbytes NF4, double quantization, 4 bits, blocks of 64")
