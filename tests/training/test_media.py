"""Training with videos, and with MiniCPM-V 4.7: losses of a plain loop of transformers and peft, ids and frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canvas_checkpoint import write_checkpoint
from clips import drawing, write_clip
from PIL import Image
from training_kit import SHORT, losses, plain_losses, train

from pocketvlm.api import processor_for
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.train.data import read_dataset
from pocketvlm.train.examples import ExampleMaker
from pocketvlm.types import Prompt

pytestmark = pytest.mark.train
# A list of frames has a rate only if it is given one.
FRAMES: dict[str, Any] = {"stack_frames": 2, "fps": 2}


def record(question: str, answer: str, **media: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **media}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four samples: a clip, an image and a clip, frames in a list, and a text."""
    for number in range(3):
        Image.fromarray(drawing(number, 90, 64)).save(tmp_path / f"{number}.png")
    write_clip(tmp_path / "a.mp4", 20)
    write_clip(tmp_path / "b.mp4", 12, size=(48, 96))
    lines = [
        record("<video>What moves?", "A box", videos=["a.mp4"]),
        record("<image>Is it in <video>?", "No", images=["0.png"], videos=["b.mp4"]),
        record("<video>And here?", "Nothing", videos=[["0.png", "1.png", "2.png"]]),
        record("Who?", "Nobody"),
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(params=["4.6", "4.7"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """nano, and a random checkpoint of the other family."""
    if request.param == "4.6":
        return embedded_directory()
    (tmp_path / "model").mkdir()
    write_checkpoint(tmp_path / "model")
    return tmp_path / "model"


def same(one: Prompt, other: Prompt) -> None:
    """Ids, frames and positions of two prompts are equal."""
    assert one.ids.tolist() == other.ids.tolist()
    assert len(one.views) == len(other.views) > 0
    for mine, theirs in zip(one.views, other.views, strict=True):
        assert np.array_equal(mine.load().patches, theirs.load().patches)
    if one.positions is not None and other.positions is not None:
        assert np.array_equal(one.positions.values, other.positions.values)


def test_a_video_has_the_ids_and_frames_of_inference(data: Path, model: Path) -> None:
    processor = processor_for(open_checkpoint(model))
    for sample in read_dataset(data).samples[:3]:
        example = ExampleMaker(processor, options=FRAMES)(sample)
        prompt = processor(sample.messages, enable_thinking=False, **FRAMES)
        same(example.prompt, prompt)
        assert example.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()


@pytest.mark.parametrize(("targets", "mode"), [("auto", "16x"), ("all", "16x"), ("auto", "4x")])
def test_the_losses_with_videos_are_those_of_a_plain_loop(
    data: Path, model: Path, tmp_path: Path, targets: str, mode: str
) -> None:
    media = {"downsample_mode": mode, **FRAMES}
    options = {"dropout": 0.0, "epochs": 2}
    train(data, tmp_path / "out", model, targets=targets, **options, **media)
    ours = losses(tmp_path / "out")
    plain = plain_losses(model, data, targets, {**SHORT, **options}, media)
    assert len(ours) == len(plain) == 2
    # Batches, padding and the native engine's features round differently.
    assert np.allclose(ours, plain, rtol=2e-3), (ours, plain)


def test_slices_of_images_train_in_both_families(model: Path, tmp_path: Path) -> None:
    """Positions on a canvas (4.7) go through padding and batches."""
    for number, size in enumerate([(900, 500), (300, 200), (500, 900)]):
        Image.fromarray(drawing(number, *size)).save(tmp_path / f"{number}.png")
    lines = [
        record("<image>What?" * (1 + number), "Box" * (2 - number), images=[f"{number}.png"] * (1 + number))
        for number in range(2)
    ]
    data = tmp_path / "slices.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    media = {"max_slice_nums": 4, "use_image_id": True}
    train(data, tmp_path / "out", model, dropout=0.0, **media)
    plain = plain_losses(model, data, "auto", {**SHORT, "dropout": 0.0}, media)
    assert np.allclose(losses(tmp_path / "out"), plain, rtol=2e-3)
