"""`pocketvlm merge` on nano: files, what is said, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from adapter_files import PREFIX, factors, write_folder
from safetensors_kit import write_json

from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.model import expected_tensors

SHAPES = expected_tensors(open_checkpoint(embedded_directory(), weights=False).model)
MODULES = [name.removesuffix(".weight") for name in SHAPES if name.endswith(("q_proj.weight", "fc1.weight"))]


@pytest.fixture
def adapter(tmp_path):
    folder = write_folder(tmp_path / "adapter", factors(MODULES, SHAPES))
    options = {"downsample_mode": "4x", "max_slice_nums": 4, "stack_frames": 3, "enable_thinking": False}
    write_json(folder / "pocketvlm.json", {"version": 1, "options": options})
    return folder


def test_the_paths_go_to_stdout_and_what_to_know_to_stderr(invoke, tmp_path, adapter):
    out = tmp_path / "merged"
    outcome = invoke("merge", "nano", str(adapter), str(out))
    assert outcome.code == 0
    paths = [Path(line) for line in outcome.out.splitlines()]
    assert out / "model.safetensors" in paths
    assert all(path.is_file() for path in paths)
    assert outcome.err.splitlines() == [
        "writing",
        "7 files, 11.2 MB",
        f"adapter: {len(MODULES)} matrices updated",
        "the checkpoint's defaults now say downsample_mode=4x, max_slice_nums=4, as the adapter was trained",
        "the adapter was trained with stack_frames=3, enable_thinking=False: at run time give --stack-frames 3 "
        "--no-thinking",
        "the adapter was trained with max_slice_nums=4: with videos give --max-slice-nums 4",
    ]
    assert open_checkpoint(out).processor.max_slice_nums == 4


def test_json_says_the_same(invoke, tmp_path, adapter):
    found = json.loads(invoke("merge", "nano", str(adapter), str(tmp_path / "out"), "--json", "-q").out)
    assert found["updated"] == len(MODULES)
    assert found["left"] == {"stack_frames": 3, "enable_thinking": False}
    assert found["dequantized"] is None
    assert all(Path(path).is_file() for path in found["paths"])


def test_quantizing_merges_and_says_so(invoke, tmp_path, adapter):
    arguments = ("--method", "rtn", "--merge-adapter", str(adapter))
    outcome = invoke("quantize", "nano", str(tmp_path / "out"), *arguments)
    assert outcome.code == 0
    assert f"adapter: {len(MODULES)} matrices updated" in outcome.err
    assert "at run time give --stack-frames 3" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("nano", "out", "--merge-adapter", "adapter", "--merge-adapter", "other"),
            "is given 2 times, for adapter and",
        ),
        (("adapter", "out", "--merge-adapter", "nano"), "the two are swapped"),
        (("openbmb/none", "out", "--merge-adapter", "none"), "adapter 'none': there is no such folder"),
        (("nano", "out", "--merge-adapter", "adapter"), "adapter_model.safetensors"),
    ],
)
def test_faults_of_adapters_end_a_quantization_before_it_starts(
    invoke, tmp_path, adapter, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    (adapter / "adapter_model.safetensors").write_bytes(b"damaged")
    outcome = invoke("quantize", *arguments)
    assert outcome.code != 0
    assert outcome.err.startswith("error: ")
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_another_base_is_refused_unless_allowed(invoke, tmp_path, adapter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"model": "org/base", "sample": {"model.language_model.layers.*.self_attn.q_proj.weight": 1e6}}
    write_json(adapter / "pocketvlm.json", {"version": 1, "options": {}, "base": base})
    refused = invoke("merge", "nano", "adapter", "out")
    assert refused.code == 1
    assert "was trained on another base than" in refused.err
    assert "(on org/base)" in refused.err
    assert "--allow-other-base" in refused.err
    assert invoke("merge", "nano", "adapter", "out", "--allow-other-base").code == 0
    assert invoke("quantize", "nano", "q", "--merge-adapter", "adapter", "--method", "rtn").code == 1
    allowed = ("--merge-adapter", "adapter", "--method", "rtn", "--allow-other-base")
    assert invoke("quantize", "nano", "q", *allowed).code == 0
    warned = invoke("info", "nano", "--adapter", "adapter")
    assert warned.code == 0
    assert "was trained on another base than" in warned.err


def test_a_quantized_base_is_said_aloud(invoke, tmp_path, adapter):
    import pocketvlm

    pocketvlm.convert_model("nano", tmp_path / "nano.gguf", format="gguf")
    assert invoke("quantize", "nano", str(tmp_path / "int4"), "--method", "rtn", "-q").code == 0
    outcome = invoke("merge", str(tmp_path / "int4"), str(adapter), str(tmp_path / "out"))
    assert "the base is quantized (native" in outcome.err
    assert "dequantized weights were merged" in outcome.err


def test_an_untied_head_is_said_aloud(invoke, tmp_path):
    shape = SHAPES["model.language_model.embed_tokens.weight"]
    folder = write_folder(tmp_path / "a", {f"{PREFIX}lm_head.weight": np.zeros(shape, np.float32)})
    outcome = invoke("merge", "nano", str(folder), str(tmp_path / "out"))
    assert "adapter: 0 matrices updated, 1 tensor replaced" in outcome.err
    assert "tie_word_embeddings is false" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nano", "adapter", "adapter"), 2, "exists already"),
        (("nano", "adapter", "out.gguf"), 2, "--merge-adapter"),
        (("nano", "none", "out"), 1, "there is no such folder"),
        (("nano", "adapter", "out", "--scale", "0"), 2, "scale=0"),
        (("nano", "adapter", "out", "--adapter-revision", "v1"), 2, "revision='v1'"),
        (("nanoo", "adapter", "out"), 1, "'nanoo'"),
        (("adapter", "nano", "out"), 2, "the two are swapped: give the model first"),
        (("adapter", "adapter", "out"), 2, "model 'adapter' is an adapter: give its base as the model"),
        (("nano", "nano", "out"), 1, "is a whole checkpoint, no adapter"),
        (("nano", "adaptre", "out"), 1, "(did you mean adapter?)"),
        (("openbmb/none", "none", "out"), 1, "adapter 'none'"),  # before anything is downloaded
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(invoke, tmp_path, adapter, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    outcome = invoke("merge", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ")
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
