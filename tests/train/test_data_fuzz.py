"""Records with any value in any place: each becomes samples or a line that says what is wrong, never a crash."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from data_kit import lines, nano, picture, talk
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import DataError
from pocketvlm.train.check import check
from pocketvlm.train.data import read_dataset
from pocketvlm.train.examples import ExampleMaker

MESSAGE = {"role": "user", "content": [{"type": "image"}, {"type": "image_url", "image_url": {"url": "a.png"}}, "x"]}
CALL = {"function": {"name": "f", "arguments": {"x": 1}}}
RECORDS: list[dict[str, Any]] = [
    talk("<image>q", "<think>\nhm\n</think>\n\na", "b", "c", images=["a.png"], tools=[{"name": "f"}], system="s"),
    {"messages": [MESSAGE, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "r"},
                  {"role": "assistant", "content": "a", "loss": True}], "images": [{"path": "a.png"}]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f"}'},
                       {"from": "observation", "value": "r"}, {"from": "gpt", "value": "a"}], "tools": "[]"},
    {"instruction": "q", "input": "i", "output": "a", "history": [["b", "c"]], "videos": []},
    {"query": "<video>q", "response": "a", "videos": [["a.png", "a.png"]], "objects": {}},
    {"prompt": [MESSAGE], "completion": "a", "images": ["a.png"]},
]  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
        st.sampled_from(["", "<image>", "</think>", "<|im_end|>", "user", "assistant", "image", "data:,", "a.png"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value inside a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([at] if at else []), *(place for key, item in inner for place in places(item, (*at, key)))]


def changed(record: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(record))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copy


@settings(max_examples=60)
@given(st.data())
def test_any_value_in_any_place(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(RECORDS))
    broken = changed(record, data.draw(st.sampled_from(places(record))), data.draw(VALUES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture(folder, size=(8, 8))
        path = lines(folder / "d.jsonl", json.dumps(broken))
        try:
            found = read_dataset(path)
        except DataError as error:
            refusal = str(error)
            found = None
        if found is None:
            assert str(path) in refusal
            return
        report = check(found, ExampleMaker(nano()), threads=1)
        assert len(report.problems) + bool(report.samples) == 1
        for problem in report.problems:
            assert problem.place == f"{path}:1"
            assert problem.text.count("\n") == 0
        for sample in report.samples:
            assert len(ExampleMaker(nano())(sample).ids)


def test_every_record_is_sound_before_it_is_changed(tmp_path: Path) -> None:
    picture(tmp_path, size=(8, 8))
    for number, record in enumerate(RECORDS):
        found = read_dataset(lines(tmp_path / f"{number}.jsonl", record))
        assert check(found, ExampleMaker(nano())).problems == []
