"""Every fault of training data is a line with file, line number, value and a way out; files that are not data fail."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_kit import lines, nano, picture, talk

from pocketvlm.errors import DataError, OptionError
from pocketvlm.train.check import check
from pocketvlm.train.data import Dataset, read_dataset
from pocketvlm.train.examples import ExampleMaker

GOOD = talk("q", "a")


def parts(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}, {"role": "assistant", "content": "a"}]}


def roles(*names: str) -> dict[str, Any]:
    return {"messages": [{"role": name, "content": "x"} for name in names]}


def said(**keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **keys}]}


FAULTS: list[tuple[Any, str]] = [
    # JSON
    ("oops", "not valid JSON (Expecting value at column 1, near 'oops'): correct the line or remove it"),
    ('{"messages": [}', "not valid JSON (Expecting value at column 15"),
    ("[1]", "a record must be a JSON object, not a list"),
    ("null", "a record must be a JSON object, not null"),
    # keys and types
    ({"x": 1, "y": 2}, "the keys are 'x', 'y'; OpenAI, ms-swift, TRL messages needs 'messages' [{'role', 'content'}]"),
    ({"messages": "q"}, "'messages' must be a list of messages, not a string"),
    ({"messages": []}, "'messages' is empty: give a question and its answer"),
    ({"messages": [3]}, "messages[0] must be an object with a role and a text, not a number"),
    ({"messages": [{"content": "q"}]}, "messages[0] has no role: its keys are 'content'; give 'role' and 'content'"),
    ({"messages": [{"role": "user"}]}, "messages[0]: 'content' is missing: give the text of the user"),
    (said(content=7), "messages[1].content must be a string or a list of parts, not a number"),
    (said(content=None), "messages[1]: 'content' is missing: give the text of the assistant"),
    (said(reasoning_content=1), "messages[1]: reasoning_content must be a string, not a number"),
    (said(weight=0.5), "messages[1]: weight=0.5 is not supported: give true or false (1 or 0)"),
    (said(loss=False), "no answer is learnt (loss or weight is 0 everywhere): remove the record"),
    (said(tool_calls=1), "messages[1].tool_calls must be a list of calls, not a number"),
    (said(function_call={}), "messages[1]: 'function_call' is the old form of a tool call: write it as 'tool_calls'"),
    (talk("q", "a", images=3), "'images' must be a list of paths, URLs or data URIs, not a number"),
    (talk("<image>", "a", images=[3]), "images[0] must be a path, a URL or a data URI, not a number"),
    (talk("<image>", "a", images=[{"x": 1}]), "images[0] has the keys 'x': give 'path' or 'bytes'"),
    (talk("<image>", "a", images=[" "]), "images[0] is empty: give a path, a URL or a data URI"),
    (talk("q", "a", system=3), "'system' must be a string, not a number"),
    (talk("q", "a", tools="{"), "'tools' is not JSON"),
    (talk("q", "a", tools=[3]), "tools[0] must be an object, not a number"),
    (talk("q", "a", tools={"name": "f"}), "'tools' must be a list of functions, not an object"),
    (talk("q", "a", tools=["{"]), "tools[0] is not JSON"),
    (talk("q", "a", objects={"bbox": [[1, 2, 3, 4]]}), "'objects' (places for <ref-object> and <bbox>) are not filled"),
    (talk("q", "a", audios=["a.wav"]), "'audios': the model does not hear: remove it"),
    (talk("q", "a", chat_template_kwargs=1), "'chat_template_kwargs' must be an object, not a number"),
    (talk("q", "a", chat_template_kwargs={"x": 1}), "chat_template_kwargs: 'x' of one record is not supported"),
    (talk("q", "a", chat_template_kwargs={"enable_thinking": 1}), "enable_thinking=1 is not supported"),
    (talk("q", "a", chat_template_kwargs={"enable_thinking": True}), "answer 1 has no reasoning, but"),
    ({"messages": [{"role": "user", "content": "q"}], "answers": "a"}, "'answers' must be a list of texts"),
    # parts
    (parts(3), "messages[0].content[0] must be an object with a 'type', not a number"),
    (parts({"type": "audio"}), "messages[0].content[0]: type='audio' is not supported: give 'text', 'image', "),
    (parts({"type": "text"}), "messages[0].content[0]: 'text' must be a string, not null"),
    (parts({"type": "image_url", "image_url": 3}), "messages[0].content[0]: 'image_url' must be a string or an object"),
    (parts({"type": "input_image", "file_id": "f"}), "messages[0].content[0]: file_id='f' is on a server"),
    (
        parts({"type": "image", "url": "a", "path": "b"}),
        "messages[0].content[0]: 'url' and 'path' both name its source",
    ),
    (parts({"type": "image", "source": {"type": "file"}}), "messages[0].content[0]: source has type='file'"),
    (parts({"type": "image"}), "1 <image> placeholder in the questions, but 0 images in 'images'"),
    (
        {"messages": [{"role": "system", "content": [{"type": "image", "image": "a.png"}]}]},
        "messages[0].content: a message of the system holds a part of type 'image': put it into a message of the user",
    ),
    (said(content=[{"type": "reasoning", "value": 1}]), "messages[1].content[0]: its reasoning must be a string"),
    (said(loss_weight=0.5), "messages[1]: loss_weight=0.5 is not supported"),
    (said(content=[{"type": "image", "image": "a.png"}]), "the model writes text alone: remove it"),
    # placeholders and files
    (talk("<image>", "a"), "1 <image> placeholder in the questions, but 0 images in 'images': write <image> once for"),
    (talk("<image><image>", "a", images=["a.png"]), "2 <image> placeholders in the questions, but 1 image in 'images'"),
    (talk("<image>", "a", images=["a.png", "a.png"]), "1 <image> placeholder in the questions, but 2 images in"),
    (talk("<video>", "a", images=["a.png"]), "1 <video> placeholder in the questions, but 0 videos in 'videos'"),
    (talk("<image>", "a", images=["no.png"]), "images[0]='no.png': no such file: put it in "),
    (talk("<image>", "a", images=["/no.png"]), "images[0]='/no.png': no such file: correct the path"),
    (talk("<image>", "a", images=["x" * 9000]), "images[0]='xxx"),
    (talk("<image>", "a", images=["a\0b"]), "no such file"),
    # roles
    (roles("assistant"), "message 1: role 'assistant' at the beginning is out of order: begin with a question"),
    (roles("user", "assistant", "assistant"), "message 3: role 'assistant' after 'assistant' is out of order"),
    (roles("user", "system", "assistant"), "message 2: role 'system' after 'user' is out of order"),
    (roles("user", "tool", "assistant"), "message 2: role 'tool' after 'user' is out of order"),
    (roles("user", "assistant", "tool"), "message 3: a tool's result without a tool call before it: add the call"),
    (roles("user", "assistant", "user"), "the last message is of role 'user': the last one must be an answer"),
    (roles("user", "robot"), "messages[1]: role='robot' is not a role: give one of system, developer, user, human"),
    (roles("user", "tool_call"), "messages[1]: a tool call is not JSON (Expecting value"),
    # answers
    (talk("q", ""), "answer 1 is empty: write it, or remove the record"),
    (talk("q", "a", "b", " \n"), "answer 2 is empty"),
    (talk("q", "<think>\n\n</think>\n\n"), "answer 1 is empty"),
    (talk("q", "<think>\nhm\n</think>\n\n"), "answer 1 is empty after its reasoning"),
    (talk("q", "<think>hm"), "answer 1: <think> has no </think>: close the reasoning, and put the answer after it"),
    (talk("q", "<think>a</think>b<think>c</think>d"), "answer 1: more than one <think> block"),
    (said(content="<think>b</think>c", reasoning_content="a"), "reasoning in the text and in reasoning_content"),
]


@pytest.mark.parametrize(("record", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_a_line_with_its_place(tmp_path: Path, record: Any, message: str) -> None:
    picture(tmp_path)
    path = lines(tmp_path / "d.jsonl", GOOD, record, "", talk("other", "a"))
    found = read_dataset(path)
    assert len(found.problems) == 1
    assert str(found.problems[0]).startswith(f"{path}:2: ")
    assert message in str(found.problems[0])
    assert "\n" not in str(found.problems[0])
    assert [sample.place for sample in found.samples] == [f"{path}:1", f"{path}:4"]
    assert found.records == 3


OTHERS: list[tuple[Any, str]] = [
    ({"conversations": [{"value": "q"}]}, "conversations[0] has no role: its keys are 'value'"),
    ({"conversations": [{"from": "human", "value": "q"}] * 2}, "role 'user' after 'user' is out of order"),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]}, "needs a 'name'"),
    ({"instruction": 3, "output": "a"}, "'instruction' must be a string, not a number"),
    ({"instruction": "q", "output": ""}, "answer 1 is empty"),
    ({"instruction": "q", "output": "a", "history": "x"}, "'history' must be a list of pairs [question, answer]"),
    ({"instruction": "q", "output": "a", "history": [["x"]]}, "history[0] must be a pair of strings"),
    ({"instruction": "q", "output": "a", "images": ["a.png"]}, "0 <image> placeholders in the questions, but 1 image"),
    ({"query": None, "response": "a"}, "'query' must be a string, not null"),
    ({"prompt": "q", "completion": 3}, "'completion' must be a list of messages, not a number"),
    ({"prompt": [], "completion": "a"}, "'prompt' is empty"),
]


@pytest.mark.parametrize(("record", "message"), OTHERS, ids=range(len(OTHERS)))
def test_faults_of_the_other_formats(tmp_path: Path, record: Any, message: str) -> None:
    picture(tmp_path)
    path = lines(tmp_path / "d.jsonl", record)
    (problem,) = read_dataset(path).problems
    assert str(problem).startswith(f"{path}:1: ")
    assert message in str(problem)


FILES: list[tuple[bytes, str]] = [
    (b"", "d: the file is empty: give a JSON array or JSON lines"),
    (b" \n \n", "d: the file is empty"),
    (b"[]", "d: no records in it"),
    (b"a,b\n1,2\n", "d:1: begins with 'a,b\\n1,2\\n', which is not JSON"),
    (b"\x89PNG\r\n\x1a\n", "d:1: byte 0 (0x89) is not UTF-8"),
    (b'{"messages": []}\n{"a": "\xff"}', "d:2: byte 24 (0xff) is not UTF-8"),
    (gzip.compress(b"[]")[:-4], "d: damaged or incomplete gzip file"),
    (b'[\n{"messages": 1},\n{"messages" 2}]', "d:3: not valid JSON (Expecting ':' delimiter"),
    (b'[{"messages": 1}\n', "d:2: not valid JSON (the array has no end"),
    (b'[{"messages": 1} {}]', "d:1: not valid JSON (expected ',' or ']'"),
    (b'[{"messages": 1}]\n{}', "d:2: not valid JSON (there is text after the array"),
    (b"{oops\n{oops\n", "d:1: not valid JSON (Expecting property name"),
    (b'{"id": 1}', "d: no known format: the keys are 'id'; needed are 'messages' [{'role', 'content'}] (OpenAI, "),
    (b'{"text": "long"}', "d: key 'text': plain text has no question and answer"),
    (b'{"prompt": "q", "chosen": "a", "rejected": "b"}', "d:1: key 'chosen': preference data"),
    (b'{"messages": [], "rejected_response": "b"}', "d:1: key 'rejected_response': preference data"),
    (
        b'{"messages": []}\n{"query": "q", "response": "a"}\n{"messages": []}',
        "records of several formats: messages (first at {path}:1) and query-response (first at {path}:2)",
    ),
]


@pytest.mark.parametrize(("content", "message"), FILES, ids=range(len(FILES)))
def test_a_file_that_cannot_be_used_is_refused_at_once(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert message.replace("{path}", str(path)) in str(caught.value)


def test_paths_without_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        read_dataset(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match=r"has no dataset_info\.json, and its data files are none"):
        read_dataset(tmp_path)
    path = lines(tmp_path / "d.jsonl", GOOD)
    assert read_dataset(tmp_path).samples
    with pytest.raises(DataError, match=r"name='x' chooses an entry of dataset_info\.json, but"):
        read_dataset(path, name="x")


ENTRIES: list[tuple[Any, str]] = [
    ({"hf_hub_url": "a/b"}, "hf_hub_url='a/b' is not downloaded"),
    ({}, "'file_name' is missing"),
    ({"file_name": "no.json"}, "file_name='no.json': no such file in"),
    ({"file_name": "d.json", "ranking": True}, "ranking is preference data"),
    ({"file_name": "d.json", "formatting": "x"}, "formatting='x' is not supported"),
    ({"file_name": "d.json", "columns": {"chosen": "x"}}, "column 'chosen' is not trained on"),
    ({"file_name": "d.json", "columns": {"picture": "x"}}, "column 'picture' is unknown"),
    ({"file_name": "d.json", "tags": [1]}, "'tags' must be an object of strings"),
    ({"file_name": "d.json", "num_samples": 0}, "num_samples=0 is not supported"),
    (3, "must be an object with 'file_name', not a number"),
]


@pytest.mark.parametrize(("entry", "message"), ENTRIES, ids=range(len(ENTRIES)))
def test_entries_of_dataset_info_that_cannot_be_used(tmp_path: Path, entry: Any, message: str) -> None:
    (tmp_path / "d.json").write_text("[]")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'dataset_info.json'}: mine")
    assert message in str(caught.value)


def test_dataset_info_itself_may_be_broken(tmp_path: Path) -> None:
    for content, message in (("{", "not valid JSON"), ("[]", "must be an object with an entry for each dataset")):
        (tmp_path / "dataset_info.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read_dataset(tmp_path)


def test_check_finds_what_reading_does_not(tmp_path: Path) -> None:
    picture(tmp_path, "cut.jpg", (300, 200))
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture")
    bad = [
        (talk("<image>", "a", "b", "c", images=["cut.jpg"]), "damaged or incomplete JPEG file"),
        (talk("<image>", "a", images=["text.png"]), "not an image in a format we read"),
        (talk("<video>", "a", videos=["text.png"]), "video"),
        (talk("q", "a<|im_end|>"), "the answer holds the control token '<|im_end|>'"),
        (talk("q", "a", "b", "\ud800"), "lone surrogate"),
        (parts({"type": "image", "image": "ok.png", "max_slice_nums": 0}), "max_slice_nums=0"),
        (said(tool_calls=[{"x": 1}]), "'function' must be an object with a 'name' string"),
    ]
    picture(tmp_path, "ok.png")
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [*(record for record, _ in bad), GOOD]))
    found = read_dataset(path)
    assert found.problems == []
    report = check(found, ExampleMaker(nano()), threads=2)
    assert [problem.place for problem in report.problems] == [f"{path}:{n + 1}" for n in range(len(bad))]
    for problem, (_, message) in zip(report.problems, bad, strict=True):
        assert message in problem.text
        assert str(tmp_path / "d.jsonl") not in problem.text
    assert [sample.place for sample in report.samples] == [f"{path}:{len(bad) + 1}"]
    with pytest.raises(DataError, match=r"d\.jsonl:1: .*\n.*d\.jsonl:2: "):
        report.require_sound()
    report.require_sound(skip_bad=True)


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    found = read_dataset(lines(tmp_path / "d.jsonl", *[talk(str(n), "") for n in range(25)]))
    with pytest.raises(DataError) as caught:
        found.require_sound()
    listed = str(caught.value).splitlines()
    assert len(listed) == 21
    assert listed[-1] == "and 5 more"
    with pytest.raises(DataError, match="the data has no sample"):
        Dataset().require_sound()


def test_samples_over_max_length_are_counted_left_out_or_cut(tmp_path: Path) -> None:
    found = read_dataset(lines(tmp_path / "d.jsonl", talk("q", "a", "b", "a very long answer"), GOOD))
    whole = check(found, ExampleMaker(nano()))
    limit = whole.lengths[1].total - 1
    report = check(found, ExampleMaker(nano(), max_length=limit))
    assert [sample.turn for sample in report.samples] == [0, 0]
    (problem,) = report.too_long
    assert f"{limit + 1} tokens" in problem.text
    assert f"max_length={limit}: raise max_length" in problem.text
    with pytest.raises(DataError, match="max_length"):
        report.require_sound()
    report.require_sound(skip_long=True)
    cut = check(found, ExampleMaker(nano(), max_length=limit, cut_answers=True))
    assert (cut.cut, len(cut.samples), cut.tokens.max()) == (1, 3, limit)
    assert "1 answer cut" in cut.summary()
    with pytest.raises(DataError, match="no sample is left"):
        check(found, ExampleMaker(nano(), max_length=2)).require_sound(skip_long=True)


def test_the_report_counts_media_once_a_record_and_calls_back(tmp_path: Path) -> None:
    picture(tmp_path)
    records = [talk("<image>", "a", "<image>", "b", images=["a.png", "a.png"]), talk("q", "a")]
    seen: list[tuple[int, int]] = []
    found = read_dataset(lines(tmp_path / "d.jsonl", *records))
    report = check(found, ExampleMaker(nano()), progress=lambda done, total: seen.append((done, total)))
    assert report.summary() == f"messages: 3 samples, 2 images, longest {report.tokens.max()} tokens"
    assert seen[-1] == (3, 3)
    facts = report.to_dict()
    assert (facts["samples"], facts["images"], facts["videos"], facts["records"]) == (3, 2, 0, 2)
    assert facts["tokens"]["sample"]["sum"] == sum(len(ExampleMaker(nano())(sample).ids) for sample in found.samples)
    json.dumps(facts)
    with pytest.raises(OptionError, match="threads=0"):
        check(found, ExampleMaker(nano()), threads=0)
