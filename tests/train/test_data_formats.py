"""Data files of LLaMA-Factory, ms-swift, TRL and OpenAI become the same samples."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from data_kit import lines, picture, talk

from pocketvlm.errors import DataError, OptionError
from pocketvlm.train.data import Dataset, read_dataset
from pocketvlm.train.data.formats import FORMATS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path)
    picture(tmp_path, "b.png", (30, 80))
    return tmp_path


def image(folder: Path, name: str = "a.png") -> dict[str, Any]:
    return {"type": "image", "image": str(folder / name)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def sound(dataset: Dataset) -> Dataset:
    assert [str(problem) for problem in dataset.problems] == []
    return dataset


def only(path: Path, **options: Any) -> Any:
    """The one sample of a file."""
    (sample,) = sound(read_dataset(path, **options)).samples
    return sample


SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "<image>\nWho is it?"},
        {"from": "gpt", "value": "A penguin."},
        {"from": "human", "value": "Where?"},
        {"from": "gpt", "value": "On ice."},
    ],
    "system": "Be brief.",
    "images": ["a.png"],
}


def test_sharegpt_of_llama_factory(folder: Path) -> None:
    found = sound(read_dataset(lines(folder / "d.jsonl", SHAREGPT)))
    assert found.format == "sharegpt"
    first, second = found.samples
    system = {"role": "system", "content": "Be brief."}
    question = {"role": "user", "content": [image(folder), text("Who is it?")]}
    assert list(first.messages) == [system, question]
    assert first.answer == "A penguin."
    answered = {"role": "assistant", "content": "A penguin."}
    assert list(second.messages) == [system, question, answered, {"role": "user", "content": "Where?"}]
    assert (second.answer, second.turn, second.place) == ("On ice.", 1, f"{folder / 'd.jsonl'}:1")
    assert dict(second.media) == {"images": 1, "videos": 0}


def test_sharegpt_with_roles_and_a_system_message(folder: Path) -> None:
    record = {
        "conversations": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
    }
    sample = only(lines(folder / "d.jsonl", record))
    assert [message["role"] for message in sample.messages] == ["system", "user"]


def test_a_single_image_as_llava_writes_it(folder: Path) -> None:
    record = {"id": "7", "image": "a.png", "conversations": SHAREGPT["conversations"][:2]}
    sample = only(lines(folder / "d.jsonl", record))
    assert sample.messages[0]["content"][0] == image(folder)
    assert dict(sample.extra) == {"id": "7"}


def test_tool_calls_of_sharegpt(folder: Path) -> None:
    tools = [{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]
    record = {
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
            {"from": "observation", "value": '{"rain": true}'},
            {"from": "gpt", "value": "Yes."},
        ],
        "tools": json.dumps(tools),
    }
    first, second = sound(read_dataset(lines(folder / "d.jsonl", record))).samples
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    assert (first.answer, list(first.calls)) == ("", [call])
    assert list(first.tools) == [{"type": "function", "function": tools[0]}]
    assert [message["role"] for message in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[1]["tool_calls"] == [call]


def test_alpaca_of_llama_factory_in_a_json_array(folder: Path) -> None:
    records = [
        {
            "instruction": "<image>Name it.",
            "input": "In one word.",
            "output": "Penguin",
            "system": "s",
            "history": [["Hello", "Hi"]],
            "images": ["b.png"],
        },
        {"instruction": "q", "input": "", "output": "a"},
    ]
    path = folder / "alpaca.json"
    path.write_text("\ufeff" + json.dumps(records, indent=2), encoding="utf-8")
    found = sound(read_dataset(path))
    assert found.format == "alpaca"
    first, second, third = found.samples
    assert (first.answer, second.answer, third.answer) == ("Hi", "Penguin", "a")
    assert second.messages[-1]["content"] == [image(folder, "b.png"), text("Name it.\nIn one word.")]
    assert third.messages[0]["content"] == "q"
    assert first.place == f"{path}:2 (record 1)"
    assert third.place == f"{path}:{path.read_text().splitlines().index('  },') + 2} (record 2)"


def test_dataset_info_names_files_columns_and_tags(folder: Path) -> None:
    (folder / "data").mkdir()
    picture(folder / "data", "pictures/c.png")
    info = {
        "chats": {
            "file_name": "chats.json",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "images": "pics"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "bot"},
        },
        "plain": {"file_name": "plain.jsonl", "columns": {"prompt": "q", "response": "a"}, "num_samples": 1},
        "modern": {"file_name": "modern.json", "formatting": "openai"},
    }
    (folder / "data" / "dataset_info.json").write_text(json.dumps(info))
    talk_ = [{"who": "me", "says": "<image>x"}, {"who": "bot", "says": "y"}]
    (folder / "data" / "chats.json").write_text(json.dumps([{"talk": talk_, "pics": ["pictures/c.png"]}]))
    lines(folder / "data" / "plain.jsonl", {"q": "one", "a": "1"}, {"q": "two", "a": "2"})
    (folder / "data" / "modern.json").write_text(json.dumps([talk("u", "v")]))
    found = sound(read_dataset(folder / "data", name="chats,plain,modern"))
    assert [sample.answer for sample in found.samples] == ["y", "1", "v"]
    assert found.samples[0].messages[0]["content"] == [image(folder / "data", "pictures/c.png"), text("x")]
    assert found.format == "sharegpt, alpaca"
    with pytest.raises(DataError, match=r"no dataset 'chat' \(did you mean 'chats'\?\): give one of chats, plain"):
        read_dataset(folder / "data", name="chat")
    with pytest.raises(DataError, match="lists the datasets chats, plain, modern: choose with name=NAME"):
        read_dataset(folder / "data" / "dataset_info.json")


def test_ms_swift_messages(folder: Path) -> None:
    raw = (folder / "b.png").read_bytes()
    record = talk(
        "Compare <image> and <image>.", "Both cold.", images=["a.png", {"bytes": base64.b64encode(raw).decode()}]
    )
    sample = only(lines(folder / "d.jsonl", record))
    uri = "data:;base64," + base64.b64encode(raw).decode()
    assert sample.messages[0]["content"] == [
        text("Compare"),
        image(folder),
        text("and"),
        {"type": "image", "image": uri},
        text("."),
    ]
    spelled = only(lines(folder / "e.jsonl", talk("<image>", "x", images=[base64.b64encode(raw).decode()])))
    assert spelled.messages[0]["content"] == [{"type": "image", "image": uri}]


def test_ms_swift_query_and_response_with_a_video(folder: Path) -> None:
    record = {
        "query": "<video>What happens?",
        "response": "It swims.",
        "history": [["Hello", "Hi"]],
        "videos": [["a.png", "a.png"]],
        "system": "s",
    }
    first, second = sound(read_dataset(lines(folder / "d.jsonl", record))).samples
    frames = [str(folder / "a.png")] * 2
    assert second.messages[-1]["content"] == [{"type": "video", "video": frames}, text("What happens?")]
    assert (dict(first.media), dict(second.media)) == ({"images": 0, "videos": 0}, {"images": 0, "videos": 1})


def test_ms_swift_says_which_answers_are_learnt(folder: Path) -> None:
    record = talk("a", "b", "c", "d")
    record["messages"][1]["loss"] = False
    assert [sample.answer for sample in sound(read_dataset(lines(folder / "d.jsonl", record))).samples] == ["d"]


def test_trl_prompt_and_completion(folder: Path) -> None:
    prompt = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "not learnt"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who?"}]},
    ]
    records = [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": "A penguin"}], "images": ["a.png"]},
        {"prompt": "2 + 2?", "completion": " 4"},
        {"prompt": "Look", "completion": "b", "images": ["a.png", "b.png"]},
    ]
    first, second, third = sound(read_dataset(lines(folder / "d.jsonl", *records))).samples
    assert first.messages[2]["content"] == [image(folder), text("Who?")]
    assert (first.answer, second.answer) == ("A penguin", "4")
    assert second.messages == ({"role": "user", "content": "2 + 2?"},)
    assert third.messages[0]["content"] == [image(folder), image(folder, "b.png"), text("Look")]


def test_openai_messages_with_parts(folder: Path) -> None:
    record = {
        "messages": [
            {"role": "developer", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "This <image> stays text."},
                    {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                    {"type": "input_text", "text": "Who?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A"}, {"type": "output_text", "text": "B"}]},
        ]
    }
    sample = only(lines(folder / "d.jsonl", record))
    assert sample.messages[0]["role"] == "system"
    assert sample.messages[1]["content"] == [
        text("This <image> stays text."),
        {"type": "image_url", "image_url": {"url": str(folder / "a.png"), "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image", "image": "data:image/png;base64,AAAA"},
        text("Who?"),
    ]
    assert sample.answer == "A\nB"


def test_parts_with_values_of_llama_factory(folder: Path) -> None:
    def message(role: str, *parts: tuple[str, str], **more: Any) -> dict[str, Any]:
        return {"role": role, "content": [{"type": kind, "value": value} for kind, value in parts], **more}

    call = '{"name": "f", "arguments": {"x": 1}}'
    record = {
        "messages": [
            message("system", ("text", "s"), loss_weight=0.0),
            message("user", ("image_url", "a.png"), ("text", "Who?"), loss_weight=0.0),
            message("assistant", ("text", "not learnt"), loss_weight=0.0),
            message("user", ("text", "And?")),
            message("assistant", ("reasoning", "hm"), ("tool_call", call), ("tool_call", call)),
            message("tool", ("text", "r")),
            message("assistant", ("reasoning", "so"), ("text", "Yes"), loss_weight=1.0),
        ],
        "tools": '[{"name": "f"}]',
    }
    first, second = sound(read_dataset(lines(folder / "d.jsonl", record))).samples
    assert first.messages[1]["content"] == [
        {"type": "image_url", "image_url": {"url": str(folder / "a.png")}},
        text("Who?"),
    ]
    assert (first.answer, first.thinking) == ("hm\n</think>\n\n", True)
    assert [each["function"] for each in first.calls] == [{"name": "f", "arguments": {"x": 1}}] * 2
    assert second.answer == "so\n</think>\n\nYes"


def test_reasoning_is_found_in_the_text_and_in_its_own_key(folder: Path) -> None:
    reasoned = {"role": "assistant", "content": "Yes", "reasoning_content": "\nhm\n"}
    records = [
        talk("q", "<think>\nhm\n</think>\n\nYes"),
        {"messages": [{"role": "user", "content": "q"}, reasoned]},
        talk("q", "<think>\n\n</think>\n\nYes"),
        talk("q", "Yes"),
    ]
    samples = sound(read_dataset(lines(folder / "d.jsonl", *records))).samples
    assert [sample.thinking for sample in samples] == [True, True, False, False]
    assert {sample.answer for sample in samples[:2]} == {"hm\n</think>\n\nYes"}
    assert {sample.content for sample in samples} == {sample.answer for sample in samples[2:]} == {"Yes"}


def test_a_record_says_whether_its_reasoning_is_learnt(folder: Path) -> None:
    reasoned = "<think>\nhm\n</think>\n\nYes"
    records = [talk("q", reasoned, chat_template_kwargs={"enable_thinking": value}) for value in (True, False)]
    samples = sound(read_dataset(lines(folder / "d.jsonl", *records))).samples
    assert [(sample.thinking, sample.answer) for sample in samples] == [(True, "hm\n</think>\n\nYes"), (False, "Yes")]


def test_only_the_last_answer_if_asked(folder: Path) -> None:
    (sample,) = read_dataset(lines(folder / "d.jsonl", talk("a", "b", "c", "d")), turns="last").samples
    assert (sample.answer, sample.turn, len(sample.messages)) == ("d", 1, 3)


def test_accepted_answers_stand_for_an_answer(folder: Path) -> None:
    sample = only(lines(folder / "d.jsonl", {"messages": [{"role": "user", "content": "q"}], "answers": ["a", "b"]}))
    assert (sample.answer, sample.extra["answers"]) == ("a", ["a", "b"])


def test_compressed_and_single_record_files(folder: Path) -> None:
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps(talk("a", "b")).encode()))
    (folder / "one.json").write_text(json.dumps(talk("a", "b"), indent=1))
    found = sound(read_dataset([folder / "d.jsonl.gz", folder / "one.json"]))
    assert [sample.answer for sample in found.samples] == ["b", "b"]
    assert [str(warning) for warning in found.warnings] == [
        f"{folder / 'one.json'}:1: the same conversation as {folder / 'd.jsonl.gz'}:1: remove one of them"
    ]


def test_media_are_found_in_media_dir_the_files_folder_and_the_current_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = folder / "elsewhere"
    picture(elsewhere, "c.png")
    path = lines(folder / "d.jsonl", talk("<image>", "x", images=["c.png"]))
    assert "no such file: put it in" in str(read_dataset(path).problems[0])
    assert only(path, media_dir=elsewhere).messages[0]["content"] == [image(elsewhere, "c.png")]
    monkeypatch.chdir(elsewhere)
    assert only(path).messages[0]["content"] == [image(elsewhere, "c.png")]
    with pytest.raises(DataError, match="media_dir='nowhere' is no folder"):
        read_dataset(path, media_dir="nowhere")


def test_the_format_can_be_given(folder: Path) -> None:
    path = lines(folder / "d.jsonl", talk("a", "b"))
    assert only(path, format="messages").answer == "b"
    assert "'instruction' is missing" in str(read_dataset(path, format="alpaca").problems[0])
    with pytest.raises(OptionError, match="format='share' is not a format"):
        read_dataset(path, format="share")


def test_the_examples_of_the_page_are_read(folder: Path) -> None:
    picture(folder, "penguin.png")
    (folder / "clip.mp4").touch()
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    records = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert len(records) == 6
    found = [sound(read_dataset(lines(folder / f"{n}.jsonl", text))) for n, text in enumerate(records)]
    assert {each.format for each in found} == set(FORMATS)
    assert all(sum(each.samples[-1].media.values()) == 1 for each in found)


def test_parquet_needs_its_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "d.parquet").write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="need the package pyarrow: pip install pyarrow"):
        read_dataset(folder / "d.parquet")


def test_rows_of_a_table_have_empty_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyarrow gives: every column in every row, None where a row has no value."""
    rows = [{**talk("<image>Who?", "x"), "images": [{"bytes": (folder / "a.png").read_bytes(), "path": None}]}]
    rows.append({**talk("a", "b"), "images": None})
    table = type("Table", (), {"to_pylist": lambda self: rows})
    parquet = ModuleType("parquet")
    parquet.read_table = lambda path: table()  # type: ignore[attr-defined]
    package = ModuleType("pyarrow")
    package.parquet = parquet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", package)
    (folder / "d.parquet").write_bytes(b"PAR1....PAR1")
    first, second = sound(read_dataset(folder / "d.parquet")).samples
    assert first.messages[0]["content"][0]["image"].startswith("data:;base64,")
    assert (second.answer, second.place) == ("b", f"{folder / 'd.parquet'}:2")
