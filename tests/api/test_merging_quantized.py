"""Quantizing with an adapter is quantizing the merged checkpoint, calibration included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import PREFIX, factors, write_folder
from safetensors_kit import write_json
from writer_kit import SHAPES, quantized, write, write_source

from pocketvlm.api.comparing import compare_models
from pocketvlm.api.merging import merge_adapter
from pocketvlm.api.quantizing import quantize_model
from pocketvlm.checkpoint.adapters.merge import MergeChanges
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError

MODULES = [name.removesuffix(".weight") for name in SHAPES if name.endswith(("up_proj.weight", "in_proj_z.weight"))]
HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "MiniCPM-V-4.6")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changes matrices, and the head alone, so that the merged checkpoint is untied."""
    head = np.random.default_rng(1).normal(0, 0.1, SHAPES["model.language_model.embed_tokens.weight"])
    state = factors(MODULES, SHAPES) | {f"{PREFIX}{HEAD}": head.astype(np.float32)}
    folder = write_folder(tmp_path_factory.mktemp("adapter"), state)
    write_json(folder / "pocketvlm.json", {"version": 1, "options": {"downsample_mode": "4x", "stack_frames": 3}})
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "texts.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"The ticket costs {n} euros."}]} for n in range(2)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("out", "options"),
    [
        ("native", {"format": "native", "method": "gptq", "keep": ("*layers.[1-9].*",)}),
        ("model.gguf", {"format": "gguf", "scheme": "Q8_0", "method": "rtn"}),
    ],
)
def test_both_ways_write_the_same_bytes(
    source: Path, adapter: Path, texts: Path, tmp_path: Path, out: str, options: dict[str, Any]
) -> None:
    if options["method"] == "gptq":
        options = {**options, "calibration": texts}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = quantize_model(source, tmp_path / "one" / out, merge_adapter=adapter, **options)
    merge_adapter(source, adapter, tmp_path / "MiniCPM-V-4.6")
    two = quantize_model(tmp_path / "MiniCPM-V-4.6", tmp_path / "two" / out, **options)
    assert len(one.paths) == len(two.paths)
    for first, second in zip(one.paths, two.paths, strict=True):
        assert first.name == second.name
        if first.name == "config.json":  # names the dtype of the source, float32 here, and of the merged checkpoint
            assert {**read_json(first), "torch_dtype": "bfloat16"} == read_json(second)
        else:
            assert first.read_bytes() == second.read_bytes(), first.name
    saved, left = {"downsample_mode": "4x"}, {"stack_frames": 3}
    assert one.adapter == MergeChanges(len(MODULES), 1, True, saved, left, for_videos={})
    assert one.to_dict()["adapter"]["untied"]
    assert two.adapter is None
    made = open_checkpoint(one.paths[0] if out.endswith("gguf") else tmp_path / "one" / out)
    assert made.processor.downsample_mode == "4x"
    assert not made.model.text.tie_word_embeddings


def test_work_of_another_adapter_is_not_resumed(
    source: Path, adapter: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketvlm.api import quantizing
    from pocketvlm.errors import OptionError

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(quantizing, "write_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize_model(source, tmp_path / "out", method="rtn", merge_adapter=adapter)
    with pytest.raises(OptionError, match=r"out\.partial"):
        quantize_model(source, tmp_path / "out", method="rtn")
    assert quantize_model(source, tmp_path / "out", method="rtn", merge_adapter=adapter).adapter is not None


def test_a_comparison_merges_the_adapter_into_the_reference(source: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(source, adapter, tmp_path / "merged")
    same = compare_models(source, tmp_path / "merged", reference_adapter=adapter, max_tokens=300)
    assert same.total.divergence.maximum == 0
    other = compare_models(source, tmp_path / "merged", max_tokens=300)
    assert other.total.divergence.maximum > 0


def test_a_quantized_base_is_refused(source: Path, adapter: Path, tmp_path: Path) -> None:
    write("awq", source, quantized(source, "int4-g64"), tmp_path / "awq")
    with pytest.raises(CheckpointError, match="is quantized already"):
        quantize_model(tmp_path / "awq", tmp_path / "out", merge_adapter=adapter)
