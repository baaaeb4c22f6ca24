"""MiniCPM-V 4.7 checkpoints that transformers wrote, from messages to answers, against transformers' own classes."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import processor_kit
import pytest
import torch
from canvas_checkpoint import write_checkpoint
from clips import drawing
from oracle import (
    Oracle,
    assert_close,
    config_dict,
    make_network,
    make_oracle,
    reference_answer,
    reference_inputs,
    reference_logits,
)

import pocketvlm
from pocketvlm.backends import native
from pocketvlm.bench.scenarios import Prompts
from pocketvlm.errors import CheckpointError, ConfigError
from pocketvlm.families import MINICPMV4_6, MINICPMV4_7, Markers
from pocketvlm.interfaces.prompts import continued
from pocketvlm.types import Prompt

QUESTION = {"type": "text", "text": "What is it?\nAnd why?"}
# Backend -> tower. Each pair of the two is in tests/model/test_canvas_parity.py.
TOWERS: dict[str, dict[str, Any]] = {
    "native": {},
    "torch": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96},
}
# In prompts of 300 to 1600 tokens single rows differ by up to 5e-4, those of 4.6 with the same weights too.
TOLERANCE, MEDIAN_TOLERANCE = 8e-4, 2e-5


@dataclass(frozen=True)
class Pair:
    """A checkpoint in a directory, the model that transformers saved there, and transformers' processor."""

    directory: Path
    oracle: Oracle
    processor: Any
    backend: Any


def write(directory: Path, backend: str) -> Pair:
    """A random checkpoint with the small tokenizer; for `native` config.json names all marker ids, for `torch` none."""
    tower = TOWERS[backend]
    oracle = write_checkpoint(directory, tower)
    if tower:
        config = json.loads((directory / "config.json").read_text())
        config.update({f"{each.name}_id": None for each in fields(Markers)})
        (directory / "config.json").write_text(json.dumps(config))
    reference = processor_kit.reference(directory, family="minicpmv4_7")
    return Pair(directory, oracle, reference, backend)


@pytest.fixture(scope="module", params=TOWERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write(tmp_path_factory.mktemp("checkpoint"), request.param)


@pytest.fixture(scope="module")
def model(pair: Pair) -> pocketvlm.Model:
    return pocketvlm.load(pair.directory, backend=pair.backend, precision="exact", threads=2)


def image(width: int, height: int, seed: int = 0) -> dict[str, Any]:
    return {"type": "image", "image": processor_kit.noise(width, height, seed)}


def video(frames: int, width: int, height: int) -> dict[str, Any]:
    return {"type": "video", "video": np.stack([drawing(number, width, height) for number in range(frames)]), "fps": 10}


CONTENTS: dict[str, list[dict[str, Any]]] = {
    "text": [QUESTION],
    "one image": [image(300, 200), QUESTION],
    "several images": [image(300, 200), image(64, 400), {"type": "text", "text": "and"}, image(90, 90, 1), QUESTION],
    "sliced image": [QUESTION, image(640, 480), QUESTION],
    "video": [video(45, 160, 90), QUESTION],
    "image and videos": [video(12, 64, 64), image(640, 480), video(25, 90, 64), QUESTION],
}


def reference_ids(pair: Pair, content: list[dict[str, Any]], mode: str, slices: int) -> tuple[list[int], list[int]]:
    """Ids and modalities of transformers' processor, which is asked for id tags of images and of videos."""
    plain = [{"type": part["type"], **({"text": part["text"]} if "text" in part else {})} for part in content]
    text = pair.processor.apply_chat_template(
        [{"role": "user", "content": plain}], tokenize=False, add_generation_prompt=True
    )
    images = [part["image"] for part in content if part["type"] == "image"]
    arrays = [part["video"] for part in content if part["type"] == "video"]
    metadata = [{"total_num_frames": len(array), "fps": 10, "duration": len(array) / 10} for array in arrays]
    options = {"downsample_mode": mode, "max_slice_nums": slices, "return_tensors": "np"}
    made = pair.processor(
        images=images or None,
        text=[text],
        videos=arrays or None,
        use_image_id=True,
        images_kwargs=options,
        videos_kwargs={**options, "video_metadata": metadata},
        text_kwargs={"return_tensors": "np"},
    )
    return made["input_ids"][0].tolist(), made["mm_token_type_ids"][0].tolist()


def check_positions(pair: Pair, prompt: Prompt) -> None:
    if not prompt.views:
        assert prompt.positions is None
        return
    inputs = reference_inputs(prompt, pair.oracle.config)
    names = ("input_ids", "mm_token_type_ids", "target_sizes", "target_sizes_videos", "downsample_mode")
    values, delta = pair.oracle.model.model.get_rope_index(**{name: inputs.get(name) for name in names})
    assert prompt.positions is not None
    np.testing.assert_array_equal(prompt.positions.values, values[:, 0].numpy())
    assert prompt.positions.delta == int(delta) < 0


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "16x") for name in CONTENTS), ("sliced image", "4x"), ("video", "4x")]
)
def test_from_messages_to_the_answer(pair: Pair, model: pocketvlm.Model, name: str, mode: str) -> None:
    content, slices = CONTENTS[name], 4 if mode == "4x" else 9
    options = {"downsample_mode": mode, "max_slice_nums": slices, "use_image_id": True}
    prompt = model.processor([{"role": "user", "content": content}], **options)
    ids, modalities = reference_ids(pair, content, mode, slices)
    assert prompt.ids.tolist() == ids
    placeholders = reference_inputs(prompt, pair.oracle.config).get("mm_token_type_ids", torch.zeros(1, len(ids)))
    assert placeholders[0].tolist() == modalities
    check_positions(pair, prompt)
    logits, reference = model.logits(prompt), reference_logits(pair.oracle, prompt)
    assert_close(logits, reference, TOLERANCE)
    assert np.median(np.abs(logits - reference).max(axis=1)) <= MEDIAN_TOLERANCE
    answer = model.generate(prompt, max_tokens=20, temperature=0, ignore_eos=True)
    assert list(answer.token_ids) == reference_answer(pair.oracle, prompt, 20)


def test_positions_need_no_frames(model: pocketvlm.Model) -> None:
    """The grids of all frames are known before any but the first is decoded."""
    prompt = model.processor([{"role": "user", "content": CONTENTS["video"]}])
    assert prompt.positions is not None
    assert prompt.later_seconds().decode == 0


def test_random_pictures(pair: Pair, model: pocketvlm.Model) -> None:
    random = np.random.default_rng(3)
    for seed in range(12):
        content: list[dict[str, Any]] = []
        for _ in range(int(random.integers(1, 4))):
            width, height = random.integers(30, 900, 2).tolist()
            content.append(image(width, height, seed))
            if random.random() < 0.5:
                content.append({"type": "text", "text": str(random.choice(["and", "\n", "\n\nthen\n"]))})
        content.append(QUESTION)
        mode = str(random.choice(["16x", "4x"]))
        tags = bool(random.random() < 0.5)
        check_positions(
            pair, model.processor([{"role": "user", "content": content}], downsample_mode=mode, use_image_id=tags)
        )


def test_info_names_the_family(model: pocketvlm.Model) -> None:
    assert model.info()["family"] == "MiniCPM-V 4.7"
    with pocketvlm.load("nano") as nano:
        assert nano.info()["family"] == "MiniCPM-V 4.6"


def changed(pair: Pair, tmp_path: Path, **fields: Any) -> Path:
    """The checkpoint with other values in config.json."""
    for file in pair.directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((pair.directory / "config.json").read_text())
    text = fields.pop("text_config", {})
    (tmp_path / "config.json").unlink()
    config = {**config, **fields, "text_config": {**config["text_config"], **text}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.3}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"text_config": {"model_type": "qwen3_5_moe_text"}}, ConfigError, "qwen3_5_moe_text' is a mixture of experts"),
        ({"slice_end_id": 1}, CheckpointError, "slice_end_id=1, but .* do not belong together"),
        ({"newline_id": "x"}, ConfigError, "newline_id='x' is not supported"),
        ({"model_type": "minicpmv4_8"}, ConfigError, r"minicpmv4_6 \(.*\) and minicpmv4_7 \("),
        ({"architectures": [MINICPMV4_6.architecture]}, ConfigError, "is another model"),
        ({"text_config": {"rope_parameters": ROPE}}, ConfigError, r"mrope_section=\[11, 11, 10\] .* the sum 6"),
        (
            {"text_config": {"rope_parameters": {**ROPE, "mrope_section": [2, 2, 2], "mrope_interleaved": False}}},
            ConfigError,
            "mrope_interleaved=False is not supported",
        ),
    ],
)
def test_other_configurations_are_refused(
    pair: Pair, tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pocketvlm.load(changed(pair, tmp_path, **fields))


def test_the_sections_of_the_reference_are_the_default() -> None:
    data = config_dict(
        text={"head_dim": 256, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}, family=MINICPMV4_7
    )
    oracle = make_oracle(data)
    assert oracle.config.text.mrope_section == (11, 11, 10)
    rotary = oracle.model.model.language_model.rotary_emb
    assert list(rotary.mrope_section) == [11, 11, 10]
    assert make_network(oracle, native.create(1)).rotary_axes == (3,)


def test_a_continued_prompt_has_shifted_positions(pair: Pair, model: pocketvlm.Model) -> None:
    prompt = model.processor([{"role": "user", "content": CONTENTS["sliced image"]}])
    tokenizer = model.processor.tokenizer
    joined = continued(tokenizer.encode_plain("the image shows"), prompt, tokenizer, [], tokenizer.vocab_size)
    assert len(joined.ids) > len(prompt.ids)
    check_positions(pair, joined)


def test_benchmark_prompts_have_positions(model: pocketvlm.Model) -> None:
    prompts = Prompts(model.checkpoint.model, side=8)
    for views in (0, 2):
        prompt = prompts.prompt(views, 20)
        assert (prompt.positions is None) == (views == 0)
        assert model.generate(prompt, max_tokens=2, temperature=0, ignore_eos=True).usage.completion_tokens == 2
