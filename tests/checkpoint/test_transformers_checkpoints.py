"""Checkpoints that transformers itself wrote load with identical values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoint import CONFIG, SHAPES, write_checkpoint
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.errors import TensorError


@pytest.fixture(scope="module")
def model() -> MiniCPMV4_6ForConditionalGeneration:
    torch.manual_seed(0)
    return MiniCPMV4_6ForConditionalGeneration(MiniCPMV4_6Config(**CONFIG))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_saved_by_transformers(
    tmp_path: Path, model: MiniCPMV4_6ForConditionalGeneration, dtype: torch.dtype, shard: str
) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    checkpoint = read_checkpoint(tmp_path)
    assert (len(checkpoint.tensor_files) > 1) == (shard == "20KB")
    want = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    assert {name: tuple(value.shape) for name, value in want.items()} == SHAPES
    tensors = checkpoint.tensors(SHAPES)
    assert {tensor.dtype for tensor in tensors.values()} == {str(dtype).removeprefix("torch.").replace("loat", "")}
    for name, value in want.items():
        assert np.array_equal(tensors[name].float32(), value.float().numpy())
    with pytest.raises(TensorError, match="1 unexpected"):
        checkpoint.tensors({name: shape for name, shape in SHAPES.items() if "embed_tokens" not in name})


def test_transformers_reads_what_the_tests_write(tmp_path: Path) -> None:
    bits = write_checkpoint(tmp_path, seed=5)
    loaded, info = MiniCPMV4_6ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in loaded.state_dict().items():
        if name in bits:
            assert np.array_equal(value.to(torch.bfloat16).view(torch.int16).numpy(), bits[name].view(np.int16))
