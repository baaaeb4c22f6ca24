"""GGUF files by name, path, folder and blob, and what is refused of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import Pair, encode, tiny_config
from gguf_metadata import vision_metadata
from gguf_pair import PICTURE, rewritten

import pocketvlm
from pocketvlm.checkpoint.gguf.header import read_header
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.cli.app import start
from pocketvlm.errors import CheckpointError, ConfigError, ImageError, PocketVLMError, TensorError


def test_every_way_to_name_a_model(pair: Pair, tmp_path: Path) -> None:
    folder = pair.text.parent
    expected = (pair.text, pair.mmproj)
    assert open_checkpoint(resolve(str(pair.text))).tensor_files == expected
    assert open_checkpoint(resolve(folder)).tensor_files == expected
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    text, vision, other = (blobs / f"sha256-{letter * 64}" for letter in "abc")
    shutil.copy(pair.text, text)
    shutil.copy(pair.mmproj, vision)
    other.write_bytes(encode({"general.architecture": "llama"}, {}))
    (blobs / "sha256-template").write_text("{{ .Prompt }}")
    foreign = {"general.architecture": "clip", "clip.projector_type": "mlp"}
    (blobs / f"sha256-{'0' * 64}").write_bytes(encode(foreign, {}))
    (blobs / "sha256-d-partial").write_bytes(pair.text.read_bytes()[:30])
    for name in (blobs, text):
        assert open_checkpoint(resolve(str(name))).tensor_files == (text, vision)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(pair.text, elsewhere / "model.gguf")
    assert open_checkpoint(elsewhere).model.vision is None
    assert open_checkpoint(elsewhere, mmproj=str(vision)).tensor_files == (elsewhere / "model.gguf", vision)
    assert open_checkpoint(elsewhere / "model.gguf", mmproj=vision).model.vision is not None


def test_of_several_files_in_a_folder(pair: Pair, tmp_path: Path) -> None:
    for name in ("m-Q8_0.gguf", "m-Q4_K_M.gguf"):
        shutil.copy(pair.text, tmp_path / name)
    metadata = vision_metadata(tiny_config())
    data = pair.mmproj.read_bytes()
    for name, kind in (("mmproj-A-F32.gguf", 0), ("mmproj-B-BF16.gguf", 32), ("mmproj-C-F16.gguf", 1)):
        tensors = {
            key: (entry.dtype, entry.shape, data[entry.start : entry.start + entry.nbytes])
            for key, entry in read_header(pair.mmproj).tensors.items()
        }
        (tmp_path / name).write_bytes(encode({**metadata, "general.file_type": kind}, tensors))
    assert open_checkpoint(tmp_path).tensor_files == (tmp_path / "m-Q4_K_M.gguf", tmp_path / "mmproj-C-F16.gguf")
    (tmp_path / "mmproj-C-F16.gguf").unlink()
    assert open_checkpoint(tmp_path / "m-Q8_0.gguf").tensor_files[1] == tmp_path / "mmproj-B-BF16.gguf"
    (tmp_path / "m-Q4_K_M.gguf").rename(tmp_path / "m-Q5_K_M.gguf")
    with pytest.raises(CheckpointError, match=r"several GGUF models \(m-Q5_K_M.gguf, m-Q8_0.gguf\): give the path"):
        open_checkpoint(tmp_path)
    for path in tmp_path.glob("m-*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="holds only vision files"):
        open_checkpoint(tmp_path)


def test_without_a_vision_file_text_runs_and_images_are_refused(pair: Pair, tmp_path: Path) -> None:
    text = tmp_path / pair.text.name
    shutil.copy(pair.text, text)
    with pocketvlm.load(text, precision="exact") as model, pocketvlm.load(pair.text, precision="exact") as whole:
        assert model.ask("Hi", max_tokens=3, temperature=0).text == whole.ask("Hi", max_tokens=3, temperature=0).text
        assert model.info()["vision_layers"] == 0
        refusal = rf"images cannot be read without a vision tower: .* beside {text}: download .* or give its path"
        with pytest.raises(ImageError, match=refusal):
            model.ask("What is this?", images=[PICTURE])
        prompt = whole.processor([{"role": "user", "content": [{"type": "image", "image": PICTURE}]}])
        with pytest.raises(PocketVLMError, match="the prompt has views, but the model has no vision tower"):
            model.generate(prompt)


def test_info_and_its_options(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["info", str(pair.text)]) == 0
    shown = capsys.readouterr().out
    assert "GGUF " in shown
    assert "3 layers, 64 wide" in shown
    shutil.copy(pair.text, tmp_path / "m.gguf")
    assert start(["info", str(tmp_path / "m.gguf")]) == 0
    assert "none: images need the model's mmproj file" in capsys.readouterr().out
    assert start(["bench", str(tmp_path / "m.gguf")]) != 0
    assert "cannot be timed with pictures: give its mmproj file" in capsys.readouterr().err
    assert start(["info", str(tmp_path), "--mmproj", str(pair.mmproj), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vision_layers"] == 3
    assert start(["tokens", str(pair.text.parent), "-p", "Hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text_tokens"] > 3
    assert start(["info", "nano", "--mmproj", str(pair.mmproj)]) != 0
    assert "is no GGUF model, and has its vision tower in itself" in capsys.readouterr().err
    assert start(["run", str(pair.text), "-p", "Hi", "--max-tokens", "2", "--mmproj", str(tmp_path / "no.gguf")]) != 0
    assert "no.gguf': there is no such file: give the path of a GGUF vision file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("vision", "changes", "message"),
    [
        (False, {"general.architecture": "llama"}, "the architecture 'llama' is not supported: .* 'qwen35'"),
        (False, {"general.architecture": "clip"}, r"is a vision file \(mmproj\), not a model"),
        (False, {"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model='llama' is not supported: expected 'gpt2'"),
        (False, {"tokenizer.ggml.pre": "qwen2"}, "tokenizer.ggml.pre='qwen2' is not supported: expected 'qwen35'"),
        (False, {"tokenizer.chat_template": None}, r"has no chat template \(tokenizer.chat_template\)"),
        (False, {"tokenizer.ggml.token_type": [1]}, "1280 tokens with 1 types"),
        (False, {"tokenizer.ggml.tokens": "x"}, "tokenizer.ggml.tokens is not an array of the expected type"),
        (False, {"qwen35.embedding_length": None}, "qwen35.embedding_length is missing: expected a whole number"),
        (False, {"qwen35.embedding_length": "x"}, "qwen35.embedding_length='x' is not supported"),
        (False, {"qwen35.context_length": [1, 2]}, "qwen35.context_length=an array of 2 elements is not supported"),
        (False, {"qwen35.block_count": 2**31}, "block_count=2147483648 is not supported: .* at most 65536"),
        (False, {"qwen35.attention.head_count": [float("nan")]}, "head_count=nan is not supported"),
        (False, {"qwen35.rope.freq_base": float("inf")}, "freq_base=inf is not supported: expected a finite number"),
        (False, {"qwen35.block_count": 6}, "the tensors of block 4 are missing although qwen35.block_count=6"),
        (False, {"qwen35.attention.value_length": 32}, "attention.value_length=32 is not supported"),
        (False, {"qwen35.attention.head_count_kv": [1, 2]}, r"head_count_kv=\[1, 2\] is not supported"),
        (False, {"qwen35.ssm.inner_size": 255}, "ssm.inner_size=255 is not supported: expected a multiple of the 2"),
        (False, {"qwen35.rope.scaling.type": "yarn"}, "rope.scaling.type='yarn' is not supported"),
        (False, {"split.count": 2}, "is one of 2 parts of a split GGUF file"),
        (True, {"clip.projector_type": "qwen2vl"}, "the projector 'qwen2vl' is not supported: .* 'minicpmv4_6'"),
        (True, {"clip.vision.projector.scale_factor": 3}, "scale_factor=3 is not supported: expected 4 or 2"),
        (
            True,
            {"clip.vision.projection_dim": 1024},
            "1024 wide, but .* is 256 wide: the two files belong to different",
        ),
        (True, {"clip.vision.wa_layer_indexes": [1, 2]}, r"wa_layer_indexes=\[1, 2\] is not supported"),
        (True, {"clip.vision.wa_layer_indexes": [float("nan")]}, "wa_layer_indexes=nan is not supported"),
        (True, {"clip.vision.block_count": 2**31}, "num_hidden_layers=2147483648 is not supported: .* at most 1024"),
        (
            True,
            {"clip.vision.image_mean": [float("nan")] * 3},
            "image_mean=.* is not supported: expected three numbers",
        ),
        (True, {"clip.use_silu": True}, "clip.use_silu=True is not supported"),
    ],
)
def test_what_is_not_supported_is_named_in_one_line(
    pair: Pair, tmp_path: Path, vision: bool, changes: dict[str, Any], message: str
) -> None:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        metadata |= changes
        for key in [key for key, value in changes.items() if value is None]:
            del metadata[key]

    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(rewritten(pair, tmp_path, change, vision))
    assert "\n" not in str(error.value)
    assert "changed" in str(error.value)  # the folder: a file is named


def test_tensors_that_do_not_belong_together(pair: Pair, tmp_path: Path) -> None:
    def drop(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        del tensors["blk.1.ffn_up.weight"]
        tensors["blk.1.new.weight"] = ("F32", (1,), bytes(4))

    with pytest.raises(TensorError, match="the tensors do not fit: the files are damaged or of another model") as error:
        pocketvlm.load(rewritten(pair, tmp_path, drop), precision="exact")
    assert "1 missing: model.language_model.layers.1.mlp.up_proj.weight" in str(error.value)
    assert "1 unexpected: blk.1.new.weight in tiny-Q4_K_M.gguf" in str(error.value)

    def repeat(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["model.language_model.norm.weight"] = tensors["output_norm.weight"]

    with pytest.raises(TensorError, match=r"both mean 'model\.language_model\.norm\.weight'"):
        open_checkpoint(rewritten(pair, tmp_path, repeat))

    def count(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[f"blk.{'9' * 5000}.x"] = ("F32", (1,), bytes(4))

    with pytest.raises(TensorError, match=r"1 unexpected: blk\.999"):
        pocketvlm.load(rewritten(pair, tmp_path, count), precision="exact")

    def scale(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["blk.0.attn_qkv.scale"] = ("F32", (1,), bytes(4))

    with pytest.raises(TensorError, match=r"'blk.0.attn_qkv.weight' has a scale, which only MXFP4 and NVFP4"):
        pocketvlm.load(rewritten(pair, tmp_path, scale), precision="exact")

    def rows(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["token_embd.weight"] = ("F32", (5, 256), bytes(5 * 1024))

    with pytest.raises(TensorError, match="the embedding has 5 rows for 1280 tokens"):
        open_checkpoint(rewritten(pair, tmp_path, rows))

    def positive(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["blk.0.ssm_a"] = ("F32", (2,), np.ones(2, np.float32).tobytes())

    with pytest.raises(TensorError, match="A_log: the file has a value that is not negative"):
        pocketvlm.load(rewritten(pair, tmp_path, positive), precision="exact")

    def tiny(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["blk.0.ffn_up.weight"] = ("16", (512, 256), bytes(512 * 66))

    with pytest.raises(ConfigError, match=r"'blk.0.ffn_up.weight' has the type IQ2_XXS, which is not supported"):
        open_checkpoint(rewritten(pair, tmp_path, tiny))
