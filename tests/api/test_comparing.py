"""`compare_models` on nano and rounded copies of it: what is measured, what is refused, what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rounded_nano import copy_nano, rounded_nano

import pocketvlm
from pocketvlm.api import processor_for
from pocketvlm.api.comparing import _samples, compare_models
from pocketvlm.api.comparison import Comparison
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import InputError, OptionError
from pocketvlm.quantize.divergence import counted_positions, kl_divergence

FEW = 900  # tokens


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rounded_nano(tmp_path_factory.mktemp("comparing") / "rounded", "matrix", "vision_matrix")


@pytest.fixture(scope="module")
def comparison(rounded: Path) -> Comparison:
    return compare_models("nano", rounded, max_tokens=FEW, threads=2)


def test_every_kind_has_a_row_and_a_share_of_the_total(comparison: Comparison) -> None:
    assert [row.kind for row in comparison.kinds] == ["text", "image 16x", "image 4x", "clip"]
    total = comparison.total
    assert total.samples == sum(row.samples for row in comparison.kinds)
    assert total.tokens == sum(row.tokens for row in comparison.kinds) < 1.5 * FEW
    assert total.divergence.positions == sum(row.divergence.positions for row in comparison.kinds)
    mean = sum(row.divergence.mean * row.divergence.positions for row in comparison.kinds)
    assert comparison.kl == pytest.approx(mean / total.divergence.positions)
    for row in (*comparison.kinds, total):
        found = row.divergence
        assert 0 < found.median <= found.p99 <= found.maximum
        assert 0.5 < found.top1 <= 1
        assert found.positions == row.tokens if row.kind == "text" else found.positions < row.tokens


def test_features_and_layers_have_errors(comparison: Comparison) -> None:
    assert [row.mode for row in comparison.features] == ["16x", "4x"]
    for row in comparison.features:
        assert 1e-4 < row.relative < 0.05
        assert 0.998 < row.cosine < 1
    assert [(row.layer, row.kind) for row in comparison.layers] == [
        *((0, "linear_attention"), (1, "full_attention")),
        *((2, "linear_attention"), (3, "full_attention")),
    ]
    assert all(0.001 < row.relative < 0.5 for row in comparison.layers)
    assert comparison.notes == ()
    assert (comparison.data, comparison.precision, comparison.seconds > 0) == ("default", "exact", True)


def test_rounding_the_vision_tower_alone_leaves_text_alone(tmp_path: Path) -> None:
    found = compare_models("nano", rounded_nano(tmp_path / "vision", "vision_matrix"), max_tokens=FEW)
    rows = {row.kind: row.divergence for row in found.kinds}
    assert rows["text"].maximum < 1e-9
    assert min(rows[kind].maximum for kind in ("image 16x", "image 4x", "clip")) > 1e-6


def test_sizes_are_those_of_the_files(comparison: Comparison, rounded: Path) -> None:
    info = pocketvlm.load("nano").info()
    assert comparison.reference.bytes == info["bytes"]
    assert comparison.reference.parameters == info["parameters"]
    assert comparison.reference.quantization is None
    assert (comparison.candidate.name, comparison.candidate.path) == (str(rounded), str(rounded))
    for model in (comparison.reference, comparison.candidate):
        assert model.bits_per_weight == model.language_bits_per_weight == model.vision_bits_per_weight == 16


def test_the_divergence_is_that_of_the_logits(tmp_path: Path, rounded: Path) -> None:
    """On one conversation, against `Model.logits`."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a star"}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": messages}), encoding="utf-8")
    found = compare_models("nano", rounded, data=tmp_path / "data.jsonl")
    content[0]["image"] = str(tmp_path / "a.png")
    logits = []
    for name in ("nano", rounded):
        with pocketvlm.load(name, precision="exact", threads=2) as model:
            prompt = model.processor(messages, add_generation_prompt=False)
            logits.append(model.logits(prompt))
    counted = counted_positions(len(prompt.ids), [(view.start, view.tokens) for view in prompt.views])
    expected = kl_divergence(*(rows[counted] for rows in logits))
    assert found.total.divergence.positions == len(counted) < len(prompt.ids)
    assert found.kl == pytest.approx(expected.mean(), rel=1e-3)
    assert found.total.divergence.maximum == pytest.approx(expected.max(), rel=1e-3)


def test_fast_arithmetic_can_be_compared_too(rounded: Path) -> None:
    found = compare_models("nano", rounded, max_tokens=300, precision="fast")
    assert found.precision == "fast"
    assert 0 < found.kl < 1


def test_the_json_object_has_a_version_and_everything(comparison: Comparison) -> None:
    found = json.loads(json.dumps(comparison.to_dict()))
    assert (found["type"], found["version"]) == ("pocketvlm.comparison", 1)
    assert found["total"]["mean"] == comparison.kl
    assert found["kinds"][0]["kind"] == "text"
    assert len(found["layers"]) == 4
    assert found["speed"] is None


def test_models_of_other_vocabularies_are_refused(tmp_path: Path) -> None:
    path = copy_nano(tmp_path / "renamed") / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|im_start|>", "<|am_start|>"), encoding="utf-8")
    template = path.with_name("chat_template.jinja")
    template.write_text(template.read_text().replace("<|im_start|>", "<|am_start|>"))
    with pytest.raises(OptionError, match=r"vocabularies differ: id 1231 is '<\|im_start\|>' in nano and '<\|am_"):
        compare_models("nano", path.parent)


def test_vocabularies_of_other_sizes_are_refused(tmp_path: Path) -> None:
    config = json.loads((embedded_directory() / "config.json").read_text(encoding="utf-8"))["text_config"]
    other = copy_nano(tmp_path / "larger", config={"text_config": {**config, "vocab_size": 1290}})
    with pytest.raises(OptionError, match=r"nano has 1280 ids, .*larger has 1290: only models of one vocabulary"):
        compare_models("nano", other)


@pytest.mark.parametrize("tokens", [0, -3])
def test_a_number_of_tokens_out_of_range_is_refused(tokens: int) -> None:
    with pytest.raises(OptionError, match=f"max_tokens={tokens} is out of range"):
        compare_models("nano", "nano", max_tokens=tokens)


def test_bad_data_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": [\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"data .*data.jsonl, line 2"):
        compare_models("nano", "nano", data=path)
    with pytest.raises(OptionError, match=r"data=.*nowhere"):
        compare_models("nano", "nano", data=tmp_path / "nowhere")


def test_a_model_without_its_vision_tower_is_compared_on_text(tmp_path: Path) -> None:
    text, mmproj = pocketvlm.convert_model("nano", tmp_path / "gguf", format="gguf")
    mmproj.unlink()
    found = compare_models("nano", text, max_tokens=600)
    assert [row.kind for row in found.kinds] == ["text"]
    assert found.features == ()
    assert found.candidate.vision_bits_per_weight is None
    assert found.kl < 1e-9  # float32 norms of GGUF files are those of nano
    (note,) = found.notes
    assert "samples were left out: " in note
    assert note.endswith("has no vision tower")
    Image.new("RGB", (50, 50), "red").save(tmp_path / "a.png")
    with pytest.raises(OptionError, match=r"no sample is left to compare: 2 of 2 samples"):
        compare_models("nano", text, data=tmp_path)


def test_a_folder_of_pictures_is_data(tmp_path: Path, rounded: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (50, 50), "red").save(tmp_path / name)
    found = compare_models("nano", rounded, data=tmp_path)
    assert [(row.kind, row.samples) for row in found.kinds] == [("image 16x", 2), ("image 4x", 2)]
    assert found.data == str(tmp_path)


def test_long_samples_are_used_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    part = {"type": "image", "image": "a.png", "downsample_mode": "4x"}
    lines = [{"messages": [{"role": "user", "content": [part] * count}]} for count in (1, 18)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    found = compare_models("nano", "nano", data=path, max_tokens=1024)
    assert (found.total.samples, found.notes) == (2, ())
    assert found.total.tokens > 600  # a quarter of max_tokens limits texts alone
    monkeypatch.setattr("pocketvlm.api.comparing._MAX_LENGTH", 256)
    found = compare_models("nano", "nano", data=path, max_tokens=256)
    assert found.total.samples == 1
    (note,) = found.notes
    assert note.startswith("1 of 2 samples were left out: pictures of a sample must fit into 256 tokens: line 2 (")


def test_without_a_limit_all_data_is_used(tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"{number} " + "museum ticket " * 300}]} for number in range(60)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    checkpoint = open_checkpoint(embedded_directory())
    samples, notes = _samples(["a", "b"], [checkpoint] * 2, processor_for(checkpoint), path, None)
    assert (len(samples), notes) == (60, [])
    assert sum(len(sample.prompt.ids) for sample in samples) > 32_768


def test_quantized_checkpoints_have_their_own_bits(tmp_path: Path) -> None:
    """Counted in the files, scales included; the other way round, the reference may be the quantized one."""
    pocketvlm.quantize_model("nano", tmp_path / "out.gguf", format="gguf", scheme="Q8_0", method="rtn", threads=2)
    found = compare_models(tmp_path / "out.gguf", "nano", max_tokens=300)
    assert found.reference.language_bits_per_weight == 8.5
    assert found.reference.vision_bits_per_weight == 16
    assert found.reference.quantization == "GGUF Q8_0, 8 bits, groups of 32"
    assert 0 < found.kl < 0.01
