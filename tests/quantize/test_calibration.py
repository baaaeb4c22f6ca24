"""Calibration sets: the default one and its held-out sibling, and the reader of users' files and folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm.api import processor_for
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import ImageError, InputError, OptionError
from pocketvlm.processor.processor import Processor
from pocketvlm.quantize.calibration import KINDS, default_set, held_out, read_calibration
from pocketvlm.quantize.calibration.sample import Sample, cut, within


@pytest.fixture(scope="module")
def processor() -> Processor:
    return processor_for(open_checkpoint(resolve("nano")))


def test_the_sets_have_all_kinds_and_are_the_same_each_time(processor: Processor) -> None:
    first, again = (default_set(processor, seed=3) for _ in range(2))
    other, judge = default_set(processor, seed=4), held_out(processor)
    assert {sample.kind for sample in first} == {sample.kind for sample in judge} == set(KINDS)

    def content(samples: list[Sample]) -> list[tuple[bytes, list[str]]]:
        return [(each.prompt.ids.tobytes(), [view.digest for view in each.prompt.views]) for each in samples]

    assert content(first) == content(again) != content(other)
    assert 10_000 < sum(len(sample.prompt.ids) for sample in first) <= 12_000
    sliced = [sample for sample in first if len(sample.prompt.views) > 1 and sample.kind.startswith("image")]
    assert {sample.kind for sample in sliced} == {"image 16x", "image 4x"}


def test_held_out_prompts_share_nothing_with_the_calibration_set(processor: Processor) -> None:
    calibration, judge = default_set(processor, tokens=10**9), held_out(processor, tokens=10**9)
    texts = {each.prompt.text for each in calibration}
    views = {view.digest for each in calibration for view in each.prompt.views}
    assert not texts & {each.prompt.text for each in judge}
    assert not views & {view.digest for each in judge for view in each.prompt.views}
    folder = Path(__file__).parents[2] / "src/pocketvlm/quantize/calibration"
    first, second = (set((folder / name).read_text().split("\n\n")) for name in ("calibration.txt", "held_out.txt"))
    assert not first & second


def test_a_model_without_a_tower_gets_texts_alone(processor: Processor) -> None:
    config = replace(processor.config, downsample_modes=())
    blind = Processor(config, processor.tokenizer, processor.template)
    assert {sample.kind for sample in default_set(blind)} == {"text"}


def test_samples_are_cut_and_thinned_evenly(processor: Processor) -> None:
    samples = default_set(processor, tokens=10**9)
    few = within(samples, 3000, 300)
    assert all(len(sample.prompt.ids) <= 300 for sample in few)
    assert 2000 < sum(len(sample.prompt.ids) for sample in few) <= 3000
    picture = next(sample.prompt for sample in samples if sample.prompt.views)
    assert cut(picture, picture.views[-1].start + 1) is None
    end = picture.views[-1].start + picture.views[-1].tokens
    assert len(cut(picture, end).ids) == end  # type: ignore[union-attr]


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def question(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


def test_a_file_of_conversations_is_read_with_its_pictures(processor: Processor, tmp_path: Path) -> None:
    Image.new("RGB", (90, 70), (200, 30, 30)).save(tmp_path / "a.png")
    part = {"type": "image", "image": "a.png", "downsample_mode": "4x"}
    linked = {"type": "image_url", "image_url": {"url": "a.png"}}
    answered = {"messages": [*question("hi")["messages"], {"role": "assistant", "content": "Hello!"}]}  # type: ignore[misc]
    path = write_lines(tmp_path / "data.jsonl", question([part, {"type": "text", "text": "what?"}]), "", answered,
                       question([linked]))  # fmt: skip
    samples = read_calibration(path, processor, max_length=2048)
    assert [sample.kind for sample in samples] == ["image 4x", "text", "image 16x"]
    assert "Hello!" in samples[1].prompt.text
    assert not samples[1].prompt.text.endswith("</think>\n\n")  # no answer is asked for after an answer


def test_a_folder_of_pictures_is_seen_in_both_modes(processor: Processor, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.new("RGB", (64, 64), (0, 90, 30)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    samples = read_calibration(tmp_path, processor, max_length=2048)
    both = ["image 16x", "image 4x"]
    assert [sample.kind for sample in samples] == [*both, *both[::-1], *both]
    tokens = sum(len(sample.prompt.ids) for sample in samples)
    notes: list[str] = []
    some = read_calibration(tmp_path, processor, max_length=2048, max_tokens=tokens * 2 // 3, notes=notes)
    assert [sample.kind for sample in some] == ["image 16x", "image 4x", "image 16x"]
    assert notes == [f"3 of 6 samples were used: all of them exceed {tokens * 2 // 3} tokens"]


def test_patches_are_made_again_when_a_view_is_loaded(processor: Processor, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = [{"type": "image", "image": "a.png", "downsample_mode": "4x"}, {"type": "text", "text": "what?"}]
    path = write_lines(tmp_path / "data.jsonl", question(content))
    (sample,) = read_calibration(path, processor, max_length=4096)
    content[0]["image"] = str(tmp_path / "a.png")
    expected = processor([{"role": "user", "content": content}])
    assert len(expected.views) > 1
    for found, view in zip(sample.prompt.views, expected.views, strict=True):
        assert not hasattr(found, "patches")
        assert (found.start, found.digest) == (view.start, view.digest)
        np.testing.assert_array_equal(found.load().patches, view.load().patches)
    views = [view for each in default_set(processor) if each.kind.startswith("image") for view in each.prompt.views]
    assert not any(hasattr(view, "patches") for view in views)


def test_of_a_large_folder_only_some_pictures_are_decoded(
    processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    made: list[object] = []
    process = Processor.__call__

    def count(self: Processor, *args: object, **options: object) -> object:
        made.append(args)
        return process(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Processor, "__call__", count)
    samples = read_calibration(tmp_path, processor, max_length=2048, max_tokens=320)
    assert 1 < len(samples) <= len(made) <= 20
    assert sum(len(sample.prompt.ids) for sample in samples) <= 320


def test_a_sample_that_is_too_long_is_named(processor: Processor, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    part = {"type": "image", "image": "a.png", "downsample_mode": "4x"}
    path = write_lines(tmp_path / "data.jsonl", question([part]), question([part] * 5))
    one, five = (len(sample.prompt.ids) for sample in read_calibration(path, processor, max_length=4096))
    with pytest.raises(InputError, match=rf"must fit into {one} tokens: line 2 \({five} tokens\): give smaller"):
        read_calibration(path, processor, max_length=one)
    notes: list[str] = []
    assert len(read_calibration(path, processor, max_length=one, notes=notes)) == 1
    assert notes == [
        f"1 of 2 samples were left out: pictures of a sample must fit into {one} tokens: line 2 ({five} tokens)"
    ]
    with pytest.raises(InputError, match=r"line 1 .*, line 2 "):
        read_calibration(path, processor, max_length=20, notes=notes)
    # A limit for texts does not cut through the views of a sample.
    samples = read_calibration(path, processor, max_length=20, longest=five)
    assert [len(sample.prompt.ids) for sample in samples] == [one, five]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: is not JSON \(.*write one object"),
        ("[1]", 'line 2: has no "messages"'),
        ({"messages": [], "images": []}, "line 2: unknown key 'images'"),
        ({"messages": []}, "line 2: messages is empty"),
        (question([{"type": "image", "image": "missing.png"}]), "line 2: .*missing.png"),
        (question([{"type": "image", "image": "broken.png"}]), "line 2: .*broken.png"),
        (question([{"type": "image", "image": "broken.png", "max_slice_nums": 0}]), "line 2: .*max_slice_nums"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "line 2: .*judge"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(
    processor: Processor, tmp_path: Path, line: object, message: str
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    path = write_lines(tmp_path / "data.jsonl", question("fine"), line)
    with pytest.raises(InputError, match=f"data {path}, {message}"):
        read_calibration(path, processor, max_length=2048, label="data")


def test_sources_that_hold_nothing_are_refused(processor: Processor, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="calibration='nowhere': there is no such file or folder"):
        read_calibration("nowhere", processor, max_length=2048)
    with pytest.raises(InputError, match="is empty"):
        read_calibration(write_lines(tmp_path / "empty.jsonl", ""), processor, max_length=2048)
    with pytest.raises(InputError, match="holds no images"):
        read_calibration(tmp_path, processor, max_length=2048)
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        read_calibration(tmp_path / "latin.jsonl", processor, max_length=2048)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"calibration .*bad\.png"):
        read_calibration(tmp_path, processor, max_length=2048)


def test_pictures_are_the_same_arrays_each_time(processor: Processor) -> None:
    from random import Random

    from pocketvlm.processor import drawing

    for draw in (drawing.shapes, drawing.word, drawing.chart):
        one, other = (draw(Random(5), (180, 140)) for _ in range(2))
        assert one.pixels.shape == (140, 180, 3)
        assert one.pixels.dtype == np.uint8
        assert one.questions == other.questions
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_lines_end_at_line_breaks_alone_and_may_have_a_byte_order_mark(tmp_path: Path, processor: Processor) -> None:
    texts = ["one\u2028two", "three\u0085four", "five"]
    lines = [json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False) for text in texts]
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert len(read_calibration(path, processor, max_length=2048)) == 3


def test_hidden_files_of_a_folder_are_no_pictures(tmp_path: Path, processor: Processor) -> None:
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    with pytest.raises(InputError, match="holds no images"):
        read_calibration(tmp_path, processor, max_length=2048)
