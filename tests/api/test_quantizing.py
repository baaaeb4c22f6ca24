"""quantize_model on the embedded checkpoint: what it gains, what it spends, resume, the same bytes, refusals."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracle import config_dict, make_oracle
from quantized_checkpoint import write_directory
from whole_network import hidden_rows, logits

import pocketvlm
from pocketvlm import backends
from pocketvlm.api import processor_for
from pocketvlm.api.quantizing import quantize_model
from pocketvlm.backends.options import choose
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError, InputError, OptionError
from pocketvlm.model import MiniCPMV, expected_tensors
from pocketvlm.quantize.calibration import held_out
from pocketvlm.quantize.runner import Runner
from pocketvlm.tensors import QuantizedTensor, Tensor

Settings = Mapping[str, Any]
TEXTS = (
    "The museum is open from Tuesday to Sunday. Tickets cost 9 euros, 6 for students.",
    "What colour is the star? The star is yellow, on a blue background.",
    "def add(a, b):\n    return a + b  # the sum of two numbers",
    "A red circle and a green square. Two blue triangles are at the top left.",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small calibration file."""
    path = tmp_path_factory.mktemp("calibration") / "texts.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"{text}\n{other}"}]} for text in TEXTS for other in TEXTS]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights with an untied head, smaller than nano."""
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 1280,
            "layer_types": ["linear_attention", "full_attention"], "num_attention_heads": 4, "head_dim": 16,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": False}  # fmt: skip
    data = config_dict(
        text=text, tie_word_embeddings=False, image_token_id=1242, video_token_id=1243, eos_token_id=1230
    )
    data["text_config"]["rope_parameters"]["partial_rotary_factor"] = data["text_config"]["partial_rotary_factor"] = 0.5
    oracle = make_oracle(data, 0, torch.bfloat16)
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    write_directory(path, data, {name: ("BF16", tensor.data) for name, tensor in oracle.tensors.items()})
    return path


def tensors_of(path: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(path)
    return checkpoint.tensors(expected_tensors(checkpoint.model))


class Judge:
    """The KL divergence of a checkpoint from nano on held-out prompts."""

    def __init__(self) -> None:
        checkpoint = open_checkpoint(resolve("nano"))
        self.config = checkpoint.model
        samples = held_out(processor_for(checkpoint), tokens=1500, max_length=400)
        self.prompts = [sample.prompt for sample in samples]
        self.ops = backends.create("native", 2, scheme=choose("native", "stored", "exact"))
        self.expected = self._log_probabilities(checkpoint.tensors(expected_tensors(self.config)))

    def _log_probabilities(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        network = MiniCPMV(self.config, self.ops, tensors)
        found = np.asarray(logits(network, hidden_rows(network, self.prompts)), np.float64)
        shifted = found - found.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def divergence(self, path: Path) -> float:
        found = self._log_probabilities(tensors_of(path))
        return float((np.exp(self.expected) * (self.expected - found)).sum(1).mean())


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> dict[str, tuple[Path, Any]]:
    """Nano by each method, at about equal size."""
    folder = tmp_path_factory.mktemp("made")
    methods: dict[str, dict[str, Any]] = {"rtn": {}, "gptq": {"calibration": texts}, "auto": {"calibration": texts}}
    return {
        method: (folder / method, quantize_model("nano", folder / method, method=method, scheme="int4-g32", **options))
        for method, options in methods.items()
    }


def test_gptq_loses_less_than_rounding_and_auto_less_than_gptq(made: dict[str, tuple[Path, Any]], judge: Judge) -> None:
    rtn, gptq, auto = (judge.divergence(made[method][0]) for method in ("rtn", "gptq", "auto"))
    assert gptq < 0.9 * rtn  # the tied embedding, which has 4 bits in both, is most of the loss
    assert auto < 0.75 * gptq


def test_a_result_says_what_the_files_hold(made: dict[str, tuple[Path, Any]]) -> None:
    path, result = made["auto"]
    tensors = tensors_of(path)
    for each in result.tensors:
        assert isinstance(tensors[each.name], QuantizedTensor) == (each.scheme is not None)
        assert (each.method is None) == (each.scheme is None)
        if each.scheme is not None and each.role != "vision_matrix":
            assert each.error is not None
            assert 0 < each.error < 0.1
    assert result.bits_per_weight <= made["gptq"][1].bits_per_weight
    assert len({each.scheme for each in result.tensors if each.role == "matrix"}) > 1
    assert result.paths
    assert all(file.is_file() for file in result.paths)
    assert json.loads(json.dumps(result.to_dict()))["bits_per_weight"] == result.bits_per_weight
    assert not list(path.parent.glob("*.partial"))


def test_a_quantized_nano_answers(made: dict[str, tuple[Path, Any]]) -> None:
    with pocketvlm.load(made["auto"][0], threads=1) as model:
        assert model.ask("What is 2+3?", temperature=0, max_tokens=4).text.strip() == "5"


def test_auto_stays_within_the_budget(tiny: Path, tmp_path: Path, texts: Path) -> None:
    for budget in (3.5, 5.0):
        out = tmp_path / f"{budget}"
        result = quantize_model(tiny, out, scheme="int4-g32", calibration=texts, bits_per_weight=budget)
        assert budget - 0.4 < result.bits_per_weight <= budget


def test_formats_that_join_matrices_give_them_one_scheme_or_16_bits(tiny: Path, tmp_path: Path, texts: Path) -> None:
    options = {"format": "gptq", "scheme": "int4-g32", "calibration": texts}
    result = quantize_model(tiny, tmp_path / "out", bits_per_weight=13.4, **options)
    schemes = {each.name: each.scheme for each in result.tensors}
    assert 12 < result.bits_per_weight <= 13.4
    assert {scheme for name, scheme in schemes.items() if "language_model.layers" in name} == {"int4-g32", None}
    for name, scheme in schemes.items():
        if name.endswith("gate_proj.weight"):
            assert scheme == schemes[name.replace("gate_proj", "up_proj")]


@pytest.mark.parametrize(("format", "scheme"), [("native", "int4-g64"), ("gguf", "Q4_K_M"), ("mlx", "int4-g64")])
def test_without_a_scheme_it_is_the_default_of_the_format(tmp_path: Path, format: str, scheme: str) -> None:
    assert quantize_model("nano", tmp_path / "out", format=format, method="rtn", threads=2).scheme == scheme


@pytest.mark.parametrize(
    ("format", "vision", "bits"),
    [("native", "default", 8), ("native", "stored", 16), ("native", "Q8_0", 8), ("gguf", "Q8_0", 8)],
)
def test_the_vision_tower_has_the_scheme_that_is_asked_for(tmp_path: Path, format: str, vision: str, bits: int) -> None:
    result = quantize_model("nano", tmp_path / "out", format=format, vision=vision, method="rtn", threads=2)
    # Blocks of Q8_0 have 32 inputs: rows of another length stay as stored.
    towers = {t.name for t in result.tensors if t.role == "vision_matrix" and t.shape[1] % 32 == 0}
    found = tensors_of(tmp_path / "out")
    assert {t.bits if isinstance(t := found[name], QuantizedTensor) else 16 for name in towers} == {bits}
    with pytest.raises(OptionError, match="vision='int3': the format mlx has no such scheme for the vision tower"):
        quantize_model("no such model", tmp_path / "b", format="mlx", vision="int3")


def test_keep_leaves_tensors_as_they_are(tmp_path: Path) -> None:
    result = quantize_model("nano", tmp_path / "out", method="rtn", keep=("*.layers.0.*", "*vision_tower*"))
    tensors, nano = tensors_of(tmp_path / "out"), tensors_of(resolve("nano"))
    for each in result.tensors:
        left = ".layers.0." in each.name or "vision_tower" in each.name
        assert left <= (each.scheme is None)
        if left:
            np.testing.assert_array_equal(tensors[each.name].dequantize(), nano[each.name].dequantize())


@pytest.mark.parametrize("method", ["awq", "auto"])
def test_scales_leave_tensors_that_keep_names(tmp_path: Path, texts: Path, method: str) -> None:
    """AWQ's scales would change matrices and norms, and the matrix whose outputs they divide."""
    keep = (
        "*language_model*.q_proj.weight",
        "*.in_proj_a.weight",
        "*.post_attention_layernorm.weight",
        "*.layers.1.mlp.up_proj.weight",
    )
    quantize_model("nano", tmp_path / "out", method=method, scheme="int4-g32", calibration=texts, keep=keep)
    tensors, nano = tensors_of(tmp_path / "out"), tensors_of(resolve("nano"))
    left = [name for name in nano if any(fnmatch.fnmatchcase(name, pattern) for pattern in keep)]
    assert len(left) == 2 + 2 + 4 + 1
    for name in left:
        assert np.array_equal(tensors[name].dequantize(), nano[name].dequantize()), name


# Runs in a process of its own, which it kills in a stage.
KILLED = """
import os, signal, sys
from pocketvlm.api.quantizing import quantize_model

def progress(stage, done, total, left):
    if stage == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)

quantize_model(sys.argv[1], sys.argv[2], scheme="int4-g32", calibration=sys.argv[3], threads=2, progress=progress)
"""


@pytest.mark.parametrize("kills", [("vision", "measure", "write"), ("probe", "head", "layers")])
def test_work_that_was_killed_resumes_with_the_same_bytes(
    tiny: Path, tmp_path: Path, texts: Path, kills: tuple[str, ...]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    options: dict[str, Any] = {"scheme": "int4-g32", "calibration": texts, "threads": 2}
    quantize_model(tiny, whole, **options)
    for stage in kills:
        command = [sys.executable, "-c", KILLED, str(tiny), str(out), str(texts), stage]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == -9, done.stderr.decode()
        assert not out.exists()
        assert (tmp_path / "out.partial").is_dir()
    stages: list[str] = []
    quantize_model(tiny, out, progress=lambda stage, *_: stages.append(stage), **options)
    # No step of an earlier stage is made again.
    order = ("vision", "pictures", "measure", "probe", "head", "layers", "write")
    assert set(stages) == set(order[order.index(kills[-1]) :])
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (out / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, "format='onnx': no such format"),
        ({"format": "bf16"}, "format='bf16' quantizes nothing: use `pocketvlm convert`"),
        ({"scheme": "int4-g63"}, "scheme='int4-g63': the format native has no such scheme"),
        ({"scheme": "int4-g128"}, "int4-g128.*192 inputs, no multiple of 128: use groups that divide it"),
        ({"format": "gguf", "scheme": "int4-g64"}, "the format gguf has no such scheme"),
        ({"method": "gtpq"}, "method='gtpq': no such method: did you mean gptq"),
        ({"method": "rtn", "calibration": "data.jsonl"}, "method rtn rounds to nearest and reads no data"),
        ({"method": "gptq", "bits_per_weight": 4.5}, "only method auto chooses schemes within a budget"),
        ({"bits_per_weight": 0}, "bits_per_weight=0 is out of range"),
        ({"bits_per_weight": 1.5}, "bits_per_weight=1.5 is not possible: format native needs at least 2"),
        (
            {"format": "awq", "scheme": "int4-g64", "bits_per_weight": 4.5},
            "bits_per_weight=4.5 is not possible: format awq needs at least",
        ),
        ({"keep": ("*nothing*",)}, r"keep='\*nothing\*': matches no tensor"),
        ({"calibration": "nowhere.jsonl"}, "calibration='nowhere.jsonl': there is no such file"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_bad_options_are_refused_before_the_work(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        quantize_model("nano", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({"format": "awq", "scheme": "int4-g64"}, "stay in 16 bits: give so many, or take format native"),
        ({"keep": ("*down_proj*",)}, "stay in 16 bits: give so many, or keep fewer tensors as they are"),
        ({}, "and head: give so many"),
    ],
)
def test_the_least_budget_that_is_named_is_possible(tmp_path: Path, options: dict[str, Any], way_out: str) -> None:
    """It is rounded up, so that it is never the refused value."""
    with pytest.raises(OptionError) as refused:
        quantize_model("nano", tmp_path / "out", bits_per_weight=1.5, **options)
    assert str(refused.value).endswith(way_out)
    minimum = float(str(refused.value).partition("at least ")[2].split()[0])
    for budget, message in ((minimum - 0.01, f"at least {minimum:.2f} bits"), (minimum, "no such file")):
        with pytest.raises((OptionError, InputError), match=message):
            quantize_model("nano", tmp_path / "out", bits_per_weight=budget, calibration="no such file", **options)


def test_a_quantized_source_is_refused_by_its_format(made: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"rtn: is quantized already \(native; .* has 4 bits\)"):
        quantize_model(made["rtn"][0], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_names_that_exist_and_folders_that_do_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="exists already"):
        quantize_model("nano", tmp_path)
    with pytest.raises(OptionError, match="there is no folder"):
        quantize_model("nano", tmp_path / "a" / "b")
    with pytest.raises(OptionError, match=r"does not end in \.gguf"):
        quantize_model("nano", tmp_path / "out.gguf")


def test_only_inputs_that_are_needed_are_measured(
    tiny: Path, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("captured", "head_inputs"):
        run = getattr(Runner, name)
        monkeypatch.setattr(Runner, name, lambda *args, name=name, run=run: called.append(name) or run(*args))
    options: dict[str, Any] = {"scheme": "int4-g32", "calibration": texts, "threads": 2}
    quantize_model(tiny, tmp_path / "dense head", format="awq", method="awq", **options)
    assert called == []
    quantize_model(tiny, tmp_path / "no budget", method="gptq", **options)
    assert called == ["head_inputs"]
    quantize_model(tiny, tmp_path / "budget", method="auto", **options)
    assert called == ["head_inputs", "captured", "captured", "head_inputs"]


def test_work_of_another_algorithm_is_not_resumed(
    tiny: Path, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(tiny), str(tmp_path / "out"), str(texts), "measure"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    monkeypatch.setattr("pocketvlm.api.quantizing.ALGORITHM_VERSION", 0)
    with pytest.raises(OptionError, match="unfinished work with other settings"):
        quantize_model(tiny, tmp_path / "out", scheme="int4-g32", calibration=texts, threads=2)


def test_too_little_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> object:
        return SimpleNamespace(total=1 << 40, used=1 << 40, free=1 << 20)

    monkeypatch.setattr("pocketvlm.checkpoint.writers.output.shutil.disk_usage", full)
    with pytest.raises(OptionError, match=r"are needed, and only 1\S* MB are free: make room"):
        quantize_model("nano", tmp_path / "out", method="rtn")
    assert not list(tmp_path.iterdir())


def test_unreadable_pictures_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    part = {"type": "image", "image": "a.png"}
    lines = [{"messages": [{"role": "user", "content": content}]} for content in ("fine", [part])]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(InputError, match=r"data\.jsonl, line 2: .*a\.png"):
        quantize_model("nano", tmp_path / "out", calibration=tmp_path / "data.jsonl")
    assert not list(tmp_path.glob("out*"))


def test_other_settings_do_not_resume_the_work(tmp_path: Path, texts: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(stage: str, *_: object) -> None:
        if stage == "layers":
            raise StoppedError

    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        quantize_model("nano", out, method="gptq", calibration=texts, progress=stop)
    with pytest.raises(OptionError, match=r"out\.partial: holds unfinished work with other settings"):
        quantize_model("nano", out, method="gptq", calibration=texts, scheme="int4-g32")
