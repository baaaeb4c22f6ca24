"""Checkpoint directories: configurations, end ids, tensors by name, and errors that name the file and the way out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors_kit import encode, write_json
from tiny_checkpoint import CONFIG, SHAPES, random_bits, write_checkpoint, write_shards

from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.checkpoint.names import EMBEDDING, HEAD, canonical_name
from pocketvlm.errors import CheckpointError, ConfigError, TensorError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "tiny")
    return tmp_path / "tiny"


def save(directory: Path, bits: dict[str, np.ndarray]) -> None:
    (directory / "model.safetensors").write_bytes(encode({name: ("BF16", data) for name, data in bits.items()}))


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    write_json(path, {key: value for key, value in {**data, **changes}.items() if value is not None})


def text_with(**changes: Any) -> dict[str, Any]:
    """A change of config.json that changes the language model's section."""
    return {"text_config": {**CONFIG["text_config"], **changes}}


def test_everything_in_the_directory_is_read(directory: Path) -> None:
    checkpoint = read_checkpoint(directory)
    assert checkpoint.path == directory
    assert checkpoint.model.text.hidden_size == 24
    assert checkpoint.processor.max_slice_nums == 9
    assert checkpoint.generation.do_sample
    assert checkpoint.generation.temperature == 0.7
    assert checkpoint.eos_token_ids == (2, 4)
    assert checkpoint.chat_template == "from chat_template.jinja"
    assert checkpoint.tokenizer.where == str(directory / "tokenizer.json")
    assert checkpoint.tokenizer.text() == (directory / "tokenizer.json").read_bytes()
    assert checkpoint.tokenizer_config["eos_token"] == "<|im_end|>"
    assert checkpoint.tensor_files == (directory / "model.safetensors",)
    assert checkpoint.parameters == sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert checkpoint.nbytes == 2 * checkpoint.parameters
    assert checkpoint.dtypes == {"BF16": checkpoint.parameters}
    tensors = checkpoint.tensors(SHAPES)
    assert list(tensors) == list(SHAPES)
    for name, bits in random_bits().items():
        assert tensors[name].name == name
        assert np.array_equal(tensors[name].data, bits)


def test_shards_give_the_same_tensors(directory: Path) -> None:
    write_shards(directory)
    checkpoint = read_checkpoint(directory)
    assert [file.name for file in checkpoint.tensor_files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    tensors = checkpoint.tensors(SHAPES)
    for name, bits in random_bits().items():
        assert np.array_equal(tensors[name].data, bits)


def test_a_single_file_wins_over_an_index(directory: Path) -> None:
    write_json(directory / "model.safetensors.index.json", {"weight_map": {"a": "gone.safetensors"}})
    assert read_checkpoint(directory).tensor_files == (directory / "model.safetensors",)


@pytest.mark.parametrize(
    ("generation", "config", "eos_token", "want"),
    [
        ({"eos_token_id": [9, 2]}, 3, "<|im_end|>", (9, 2)),
        ({"eos_token_id": 9}, None, None, (9,)),
        (None, 3, "<|im_end|>", (3, 4)),
        ({}, [4, 3], "<|im_end|>", (4, 3)),
        (None, None, {"content": "<|endoftext|>"}, (2,)),
        (None, None, None, ()),
    ],
)
def test_end_ids_are_merged(
    directory: Path, generation: Any, config: Any, eos_token: Any, want: tuple[int, ...]
) -> None:
    (directory / "generation_config.json").unlink()
    if generation is not None:
        write_json(directory / "generation_config.json", generation)
    edit(directory / "config.json", eos_token_id=config)
    edit(directory / "tokenizer_config.json", eos_token=eos_token)
    assert read_checkpoint(directory).eos_token_ids == want


def test_an_eos_token_without_an_id_is_refused(directory: Path) -> None:
    (directory / "generation_config.json").unlink()
    edit(directory / "tokenizer_config.json", eos_token="<nowhere>")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: eos_token '<nowhere>'"):
        read_checkpoint(directory)


def test_sources_of_the_chat_template(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    assert read_checkpoint(directory).chat_template == "from tokenizer_config"
    named = [{"name": ["x"]}, {"name": "tool_use", "template": "other"}, {"name": "default", "template": "the default"}]
    edit(directory / "tokenizer_config.json", chat_template=named)
    assert read_checkpoint(directory).chat_template == "the default"
    write_json(directory / "chat_template.json", {"chat_template": "from chat_template.json"})
    assert read_checkpoint(directory).chat_template == "from chat_template.json"
    (directory / "chat_template.json").unlink()
    edit(directory / "tokenizer_config.json", chat_template=None)
    with pytest.raises(CheckpointError, match=r"no chat template.*copy chat_template\.jinja"):
        read_checkpoint(directory)


def test_image_settings_inside_processor_config_win(directory: Path) -> None:
    write_json(directory / "processor_config.json", {"processor_class": "MiniCPMV4_6Processor"})
    assert read_checkpoint(directory).processor.max_slice_nums == 9
    write_json(directory / "processor_config.json", {"image_processor": {"max_slice_nums": 4}})
    assert read_checkpoint(directory).processor.max_slice_nums == 4
    write_json(directory / "processor_config.json", {"image_processor": {"resample": 2}})
    with pytest.raises(ConfigError, match=r"processor_config\.json: image_processor: resample=2"):
        read_checkpoint(directory)


FILES = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(directory)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("config.json")] + ["generation_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n  "a": 1,\n  "b" 2\n}', r"line 3, column 7: not valid JSON"),
        (b"", r"line 1, column 1: not valid JSON"),
        (b'{"a": "\xff"}', r"byte 7 is not UTF-8"),
        (b"[1, 2]", r"expected a JSON object, found list"),
    ],
)
def test_malformed_json_is_placed(directory: Path, name: str, content: bytes, message: str) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}: {message}.*again"):
        read_checkpoint(directory)


def test_other_weight_files_are_named(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-q4.gguf")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors .*only model-q4\.gguf"):
        read_checkpoint(directory)


def test_a_weight_file_of_another_name_is_to_be_renamed(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "gptq_model-4bit-128g.safetensors")
    with pytest.raises(CheckpointError, match=r"only gptq_model-4bit-128g\.safetensors: rename it to model\.safetens"):
        read_checkpoint(directory)


def test_shards_without_their_index(directory: Path) -> None:
    write_shards(directory)
    (directory / "model.safetensors.index.json").unlink()
    message = r"no model\.safetensors\.index\.json, which says what model-00001-of-00003\.safetensors and 2 more files"
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(directory)


def test_a_link_to_a_file_that_is_gone(directory: Path) -> None:
    """As in a cache of the hub whose blobs were deleted."""
    file = directory / "model.safetensors"
    file.unlink()
    file.symlink_to("../../blobs/0123")
    with pytest.raises(
        CheckpointError, match=rf"{file}: is a link to \.\./\.\./blobs/0123, which is not there: download"
    ):
        read_checkpoint(directory)


def test_a_path_that_is_no_directory(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        read_checkpoint(directory / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_5"}, r"config\.json: model_type='qwen3_5'.*is another model"),
        ({"architectures": ["MiniCPMV"]}, "is another model"),
        ({"architectures": 5}, "is another model"),
        ({"quantization_config": ["x" * 5000]}, r"quantization_config=\['x{198}\.\.\. is not an object"),
        (text_with(num_hidden_layers=10**9, layer_types=None), "num_hidden_layers=1000000000 is not .* at most 1024"),
        (text_with(layer_types=[[], []]), "layer_types=.* is not supported"),
        (text_with(rms_norm_eps=float("nan")), "rms_norm_eps=nan is not supported: expected a finite number"),
        (text_with(rms_norm_eps=10**400), "rms_norm_eps=1000.* is not supported: expected a finite number"),
        (text_with(partial_rotary_factor=1e300, rope_parameters=None), "partial_rotary_factor=.* is not supported"),
        ({"text_config": None}, "text_config is missing: expected an object"),
        (
            {"quantization_config": {"quant_method": "hqq", "bits": 4}},
            "'hqq' is not supported.*16-bit",
        ),
        (
            {"quantization_config": {}},
            r"config\.json: quantization_config is empty: remove it if the weights are dense",
        ),
        ({"quantization_config": {"quant_method": 4, "bits": 4}}, "quantization_config: quant_method=4 is not a name"),
        ({"quantization": {"scheme": "its own"}}, "quantization: quant_method is missing: MLX, .* are read"),
        ({"text_config": {**CONFIG["text_config"], "quantization_config": {"quant_method": "hqq"}}}, "'hqq'"),
    ],
)
def test_what_is_not_supported_is_refused(directory: Path, changes: dict[str, Any], message: str) -> None:
    edit(directory / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        read_checkpoint(directory)


def test_all_tensor_complaints_come_at_once(directory: Path) -> None:
    bits = random_bits()
    gone = [name for name in bits if ".vision_tower.encoder." in name]
    for name in gone:
        del bits[name]
    bits["surprise"] = np.zeros(3, np.uint16)
    shaped = "model.language_model.layers.0.mlp.up_proj.weight"
    bits[shaped] = bits[shaped].T
    save(directory, bits)
    with pytest.raises(TensorError) as error:
        read_checkpoint(directory).tensors(SHAPES)
    text = str(error.value)
    assert f"{len(gone)} missing: {gone[0]}, " in text
    assert f"and {len(gone) - 8} more" in text
    assert "1 unexpected: surprise" in text
    assert f"1 of another shape than config.json asks for: {shaped} [24, 20] instead of [20, 24]" in text


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "U8"])
def test_quantized_weights_are_refused_by_name(directory: Path, dtype: str) -> None:
    bits = {name: ("BF16", data) for name, data in random_bits().items()}
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    bits[name] = (dtype, np.zeros(SHAPES[name], np.uint8))
    (directory / "model.safetensors").write_bytes(encode(bits))
    with pytest.raises(TensorError, match=rf"quantized weights(.|\n)*{re.escape(name)} \({dtype}\)"):
        read_checkpoint(directory).tensors(SHAPES)


def test_packed_weights_are_recognised(directory: Path) -> None:
    bits = {name: ("BF16", data) for name, data in random_bits().items()}
    del bits["model.language_model.layers.0.mlp.up_proj.weight"]
    bits["model.language_model.layers.0.mlp.up_proj.qweight"] = ("I32", np.zeros((3, 20), np.int32))
    (directory / "model.safetensors").write_bytes(encode(bits))
    with pytest.raises(TensorError, match=r"quantized weights(.|\n)*1 missing(.|\n)*1 unexpected"):
        read_checkpoint(directory).tensors(SHAPES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {**weights, "ghost": weights[EMBEDDING]}, r"'ghost' is not in .* \(no shard has it\)"),
        (
            lambda weights: {**weights, EMBEDDING: "model-00003-of-00003.safetensors"},
            r"'model.*embed_tokens.weight' is not in model-00003.*\(it is in model-00001",
        ),
        (lambda weights: {**weights, "a": "model-00009-of-00009.safetensors"}, "1 of 4 shards are missing"),
        (lambda weights: {**weights, "a": "../model.safetensors"}, r"'\.\./model\.safetensors' is refused"),
        (lambda weights: {**weights, "a": "/etc/x.safetensors"}, "is refused"),
        (lambda weights: {**weights, "a": "..\\x.safetensors"}, "is refused"),
        (lambda weights: {**weights, "a": "pytorch_model.bin"}, "is refused"),
        (lambda weights: {**weights, "a": 5}, "is refused"),
        (lambda weights: {}, "weight_map is missing or empty"),
        (lambda weights: None, "weight_map is missing or empty"),
    ],
)
def test_a_wrong_index_is_explained(directory: Path, change: Any, message: str) -> None:
    write_shards(directory)
    index = directory / "model.safetensors.index.json"
    write_json(index, {"weight_map": change(json.loads(index.read_text())["weight_map"])})
    with pytest.raises(CheckpointError, match=message) as error:
        read_checkpoint(directory)
    assert str(index) in str(error.value)


def test_a_tensor_in_two_shards_is_refused(directory: Path) -> None:
    write_shards(directory)
    shard = directory / "model-00002-of-00003.safetensors"
    shard.write_bytes(encode({name: ("BF16", data) for name, data in random_bits().items()}))
    with pytest.raises(CheckpointError, match=r"is in model-00001-of-00003.safetensors and in model-00002"):
        read_checkpoint(directory)


ALIASES = [
    ("model.language_model.", ["language_model.", "language_model.model.", "model.language_model.model.", "llm."]),
    ("model.language_model.", ["llm.model.", "language_model.model.model.", "model.llm.model."]),
    ("model.vision_tower.", ["vision_tower.", "model.vpm.", "vpm.", "visual.", "model.visual."]),
    ("model.vision_tower.vit_merger.", ["model.vit_merger.", "vit_merger.", "vpm.vit_merger."]),
    ("model.merger.", ["merger."]),
]


@pytest.mark.parametrize(("hub", "alias"), [(hub, alias) for hub, aliases in ALIASES for alias in aliases])
def test_other_name_worlds_load_the_same(directory: Path, hub: str, alias: str) -> None:
    bits = random_bits()
    save(directory, {alias + name.removeprefix(hub) if name.startswith(hub) else name: bits[name] for name in bits})
    tensors = read_checkpoint(directory).tensors(SHAPES)
    assert all(np.array_equal(tensors[name].data, bits[name]) for name in SHAPES)


def test_hub_names_are_their_own_canonical_names() -> None:
    assert [canonical_name(name) for name in SHAPES] == list(SHAPES)
    for name in ("language_model.lm_head.weight", "llm.lm_head.weight", "model.lm_head.weight", HEAD):
        assert canonical_name(name) == HEAD
    for name in ("mtp.fc.weight", "model.mtp.fc.weight", "language_model.mtp.norm.weight"):
        assert canonical_name(name) is None
    assert canonical_name("model.layers.0.norm.weight") == "model.layers.0.norm.weight"


def test_two_names_for_one_tensor_are_refused(directory: Path) -> None:
    bits = random_bits()
    bits["vpm.post_layernorm.bias"] = bits["model.vision_tower.post_layernorm.bias"]
    save(directory, bits)
    with pytest.raises(TensorError, match=r"'model\.vision_tower\.post.*' and 'vpm\.post_layernorm\.bias' both mean"):
        read_checkpoint(directory)


def test_multi_token_prediction_tensors_are_dropped(directory: Path) -> None:
    save(directory, {**random_bits(), "mtp.fc.weight": np.zeros((2, 2), np.uint16)})
    checkpoint = read_checkpoint(directory)
    assert checkpoint.parameters == sum(int(np.prod(shape)) for shape in SHAPES.values())
    checkpoint.tensors(SHAPES)


def test_a_tied_head_may_be_there_if_it_is_equal(directory: Path) -> None:
    bits = random_bits()
    save(directory, {**bits, HEAD: bits[EMBEDDING]})
    assert HEAD not in read_checkpoint(directory).tensors(SHAPES)
    head = bits[EMBEDDING].copy()
    head[-1, -1] ^= 1
    save(directory, {**bits, HEAD: head})
    with pytest.raises(TensorError, match=r"'lm_head\.weight' differs from .*tie_word_embeddings to false"):
        read_checkpoint(directory)


def test_a_tied_head_may_stand_for_the_embedding(directory: Path) -> None:
    bits = random_bits()
    save(directory, {HEAD if name == EMBEDDING else name: data for name, data in bits.items()})
    assert np.array_equal(read_checkpoint(directory).tensors(SHAPES)[EMBEDDING].data, bits[EMBEDDING])


def test_an_untied_head_is_a_tensor_like_the_others(directory: Path) -> None:
    bits = random_bits()
    edit(directory / "config.json", tie_word_embeddings=False)
    shapes = {**SHAPES, HEAD: SHAPES[EMBEDDING]}
    save(directory, {**bits, HEAD: bits[EMBEDDING] ^ 1})
    assert np.array_equal(read_checkpoint(directory).tensors(shapes)[HEAD].data, bits[EMBEDDING] ^ 1)
    save(directory, bits)
    with pytest.raises(TensorError, match=r"1 missing: lm_head\.weight"):
        read_checkpoint(directory).tensors(shapes)


@pytest.mark.parametrize("programs", [True, False])
def test_a_package_for_an_npu_is_recognised(tmp_path: Path, programs: bool) -> None:
    """By its programs, or by its config.json where only the small files are here; it has no tokenizer.json."""
    name = "qwen3_5_text_p128_l0_together.axmodel"
    if programs:
        (tmp_path / name).write_bytes(b"")
    config = {"model_name": "MiniCPM-V-4.6", "filename_post_axmodel": name, "axmodel_num": 24}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: {name} is a program for AXERA's NPU and runs on nothing else: use the GPTQ checkpoint that such "
        f"packages are made of, openbmb/MiniCPM-V-4.6-GPTQ"
    )


def test_a_quantized_head_of_a_tied_checkpoint(directory: Path) -> None:
    bits = random_bits()
    stored = {name: ("BF16", values) for name, values in bits.items()}
    stored["lm_head.qweight"] = ("I32", np.zeros((3, 37), np.int32))
    (directory / "model.safetensors").write_bytes(encode(stored))
    with pytest.raises(TensorError, match=r"'lm_head.qweight' is of a quantized output matrix, .* set tie_word_emb"):
        read_checkpoint(directory)
