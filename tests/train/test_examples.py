"""Examples: ids, labels and pixels equal those of transformers, answer by answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import processor_kit
import pytest
from data_kit import lines, nano, picture, talk

from pocketvlm.errors import CheckpointError, DataError, OptionError
from pocketvlm.processor import ChatTemplate, Processor, pack_pixel_values
from pocketvlm.processor.messages import read_messages
from pocketvlm.train.data import read_dataset
from pocketvlm.train.examples import ExampleMaker, TooLongError
from pocketvlm.train.rendering import spans
from pocketvlm.train.sample import IGNORED, Sample

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "<é>"}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}}

TOOL_USE = {
    "messages": [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "ask", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "yes"},
        {"role": "assistant", "content": "", "reasoning_content": "again", "tool_calls": [CALL]},
        {"role": "tool", "content": "yes"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "yes"},
        {"role": "assistant", "content": "It rains."},
    ],
    "tools": TOOLS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


def samples(path: Path, *records: Any) -> list[Sample]:
    found = read_dataset(lines(path / "d.jsonl", *records))
    assert [str(problem) for problem in found.problems] == []
    return found.samples


def written(sample: Sample) -> dict[str, Any]:
    """The answer as a message."""
    message: dict[str, Any] = {"role": "assistant", "content": sample.content}
    if sample.thinking:
        message["reasoning_content"] = sample.answer.partition("\n</think>")[0]
    if sample.calls:
        message["tool_calls"] = list(sample.calls)
    return message


def compare(folder: Path, sample: Sample, **options: Any) -> None:
    """The prompt as inference shows it, and prompt and answer as transformers writes the whole conversation."""
    ours, theirs = processor_kit.ours(folder), processor_kit.reference(folder)
    example = ExampleMaker(ours, options={"alpha": "reference", **options})(sample)
    tools = {"tools": list(sample.tools)} if sample.tools else {}

    def reference(messages: list[dict[str, Any]], **more: Any) -> Any:
        return theirs.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=True,
            return_dict=True,
            processor_kwargs={**options, "return_tensors": "np"},
            **tools,
            **more,
        )

    shown = reference(list(sample.messages), add_generation_prompt=True, enable_thinking=sample.thinking)
    assert example.prompt.ids.tolist() == shown["input_ids"][0].tolist()
    if example.prompt.views:
        pixels, sizes = pack_pixel_values(example.prompt.views)
        assert np.array_equal(pixels, shown["pixel_values"])
        assert np.array_equal(sizes, shown["target_sizes"])
    whole = reference([*sample.messages, written(sample)], add_generation_prompt=False)["input_ids"][0].tolist()
    newline = ours.tokenizer.encode_plain("\n")
    assert example.ids.tolist() + newline == whole
    start = len(example.prompt.ids)
    assert (example.labels[:start] == IGNORED).all()
    assert example.labels[start:].tolist() == example.ids[start:].tolist()
    assert example.ids[-1] == ours.tokenizer.token_id("<|im_end|>")
    assert example.ids.dtype == example.labels.dtype == np.int32


def test_examples_equal_transformers(folder: Path, tmp_path: Path) -> None:
    picture(tmp_path, "a.png", (90, 60))
    picture(tmp_path, "b.png", (700, 500))
    records = [
        talk(
            *("<image>\nWho is it?", "A red square.\n\nOn the end"),
            *("Sure?", "<think>\nhm\n</think>\n\nYes", "And?", "No"),
            images=["a.png"],
        ),
        talk("Compare <image> with <image>.", "été 中文", images=["a.png", "b.png"]),
        TOOL_USE,
    ]
    found = samples(tmp_path, *records)
    assert len(found) == 8
    for sample in found:
        compare(folder, sample)
    compare(folder, found[3], downsample_mode="4x", max_slice_nums=4)


def test_answers_with_tool_calls_are_as_the_template_writes_them(tmp_path: Path) -> None:
    """By nano's template, which writes an empty line between a text and its calls."""
    processor, tools = nano(), [{"type": "function", "function": {"name": "weather"}}]
    found = samples(tmp_path, {**TOOL_USE, "tools": tools})
    assert len(found) == 4
    for sample in found:
        conversation = read_messages([*sample.messages, written(sample)]).messages
        text = processor.template.render(conversation, tools=tools, add_generation_prompt=False)
        example = ExampleMaker(processor)(sample)
        assert processor.tokenizer.decode(example.ids, skip_special_tokens=False) + "\n" == text
        assert [*example.ids, *processor.tokenizer.encode_plain("\n")] == processor.tokenizer.encode_template(text)


def test_labels_by_hand(tmp_path: Path) -> None:
    processor = nano()
    encode, ids = processor.tokenizer.encode_plain, processor.tokenizer.control_ids
    (sample,) = samples(tmp_path, talk("hi", "<think>\n\n</think>\n\na cat"))
    example = ExampleMaker(processor)(sample)
    start, end = ids["<|im_start|>"], ids["<|im_end|>"]
    prompt = [start, *encode("user\nhi"), end, *encode("\n"), start, *encode("assistant\n"), ids["<think>"]]
    prompt += [*encode("\n\n"), ids["</think>"], *encode("\n\n")]
    answer = [*encode("a cat"), end]
    assert example.ids.tolist() == prompt + answer
    assert example.labels.tolist() == [IGNORED] * len(prompt) + answer
    assert [(span.text, span.learnt) for span in spans(example, processor.tokenizer)] == [
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("a cat<|im_end|>", True),
    ]


def test_each_answer_is_learnt_under_the_prompt_of_inference(tmp_path: Path) -> None:
    processor = nano()
    reasoned = "<think>\nhm\n</think>\n\nYes"
    first, second, third = samples(tmp_path, talk("a", reasoned, "b", "No", "c", reasoned))
    maker = ExampleMaker(processor)
    texts = [[span.text for span in spans(maker(each), processor.tokenizer)] for each in (first, second, third)]
    head = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    middle = "Yes<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    assert texts[0] == [f"{head}<think>\n", "hm\n</think>\n\nYes<|im_end|>"]
    assert texts[1] == [f"{head}{middle}<think>\n\n</think>\n\n", "No<|im_end|>"]
    assert texts[2][0].startswith(f"{head}{middle}No<|im_end|>\n<|im_start|>user\nc")
    without = ExampleMaker(processor, options={"enable_thinking": False})(first)
    assert [span.text for span in spans(without, processor.tokenizer)] == [
        f"{head}<think>\n\n</think>\n\n",
        "Yes<|im_end|>",
    ]
    with pytest.raises(DataError, match=r"d\.jsonl:1: enable_thinking=True, but the answer has no reasoning"):
        ExampleMaker(processor, options={"enable_thinking": True})(second)


def test_control_tokens_of_answers_and_of_questions(tmp_path: Path) -> None:
    processor = nano()
    ids = processor.tokenizer.control_ids
    (sample,) = samples(tmp_path, talk("Where is <ref>it</ref>?", "<box>1 2 3 4</box> not <unk> or <slice>"))
    example = ExampleMaker(processor)(sample)
    question, answer = example.prompt.ids.tolist(), example.ids[len(example.prompt.ids) :].tolist()
    assert ids["<ref>"] not in question
    assert (answer.count(ids["<box>"]), answer.count(ids["</box>"])) == (1, 1)
    assert not {ids["<unk>"], ids["<slice>"]} & set(answer)
    assert processor.tokenizer.decode(answer, skip_special_tokens=False) == f"{sample.answer}<|im_end|>"


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"])
def test_an_answer_cannot_hold_tokens_that_end_it_or_stand_for_media(tmp_path: Path, token: str) -> None:
    (sample,) = samples(tmp_path, talk("q", f"a {token}"))
    with pytest.raises(DataError) as caught:
        ExampleMaker(nano())(sample)
    assert f"d.jsonl:1: the answer holds the control token {token!r}" in str(caught.value)


def test_max_length_refuses_or_cuts_the_answer_never_the_question(tmp_path: Path) -> None:
    picture(tmp_path)
    (sample,) = samples(tmp_path, talk("<image>\nWho?", "a long answer", images=["a.png"]))
    length = ExampleMaker(nano()).measure(sample)
    assert ExampleMaker(nano(), max_length=length.total)(sample).ids.shape == (length.total,)
    with pytest.raises(TooLongError, match=rf"d\.jsonl:1: {length.total} tokens .* max_length={length.total - 1}"):
        ExampleMaker(nano(), max_length=length.total - 1)(sample)
    cut = ExampleMaker(nano(), max_length=length.prompt + 2, cut_answers=True)(sample)
    whole = ExampleMaker(nano())(sample)
    assert cut.ids.tolist() == whole.ids[: length.prompt + 2].tolist()
    assert (cut.labels != IGNORED).sum() == 2
    with pytest.raises(TooLongError):
        ExampleMaker(nano(), max_length=length.prompt, cut_answers=True)(sample)


def test_lengths_come_from_headers(tmp_path: Path) -> None:
    """The pixels of these files cannot be decoded; their headers can be read."""
    picture(tmp_path, "a.png", (500, 300))
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"IDAT") + 20
    (sample,) = samples(tmp_path, talk("<image>", "x", images=["a.png"]))
    whole = ExampleMaker(nano())(sample)
    (tmp_path / "a.png").write_bytes(data[:at] + bytes(40) + data[at + 40 :])
    length = ExampleMaker(nano()).measure(sample)
    assert (length.prompt, length.answer) == (len(whole.prompt.ids), 2)
    assert length.media == whole.prompt.image_tokens
    pending = ExampleMaker(nano())(sample, pending=True)
    assert pending.ids.tolist() == whole.ids.tolist()
    with pytest.raises(DataError, match=r"d\.jsonl:1: messages\[0\].content\[0\]: .*a\.png: damaged"):
        ExampleMaker(nano())(sample)


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="max_slices"):
        ExampleMaker(nano(), options={"max_slices": 3})
    with pytest.raises(OptionError, match="max_length=1 is out of range"):
        ExampleMaker(nano(), max_length=1)
    for name, value in {"max_slice_nums": 0, "max_num_frames": 0, "enable_thinking": "yes"}.items():
        with pytest.raises(OptionError, match=f"{name}={value!r}"):
            ExampleMaker(nano(), options={name: value})


def test_a_template_without_an_end_of_answers_is_refused() -> None:
    template = ChatTemplate("{% for message in messages %}{{ message.content }}{% endfor %}")
    with pytest.raises(CheckpointError, match="no control token ends an answer"):
        ExampleMaker(Processor(nano().config, nano().tokenizer, template))
