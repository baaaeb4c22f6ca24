"""Definitions check values: types, ranges, words of messages, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from pocketvlm.bytesize import parse_size, readable_count, readable_size, size_text
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.option import Option, definition, definitions, refuse_unknown, validate
from pocketvlm.options.sampling import SamplingParams


@dataclass(frozen=True)
class Example:
    """Options of every kind, and a field that is none."""

    whole: Annotated[int, Option("A number.", low=1, high=9)] = 3
    minimum: Annotated[int | None, Option("At least one.", low=1)] = None
    share: Annotated[float, Option("A share.", above=0, high=1, default="the checkpoint's")] = 0.5
    open: Annotated[float, Option("Between.", above=0, below=100, flag="other_name", chat="short")] = 1.0
    kind: Annotated[Literal["red", "blue", "green"], Option("A colour.")] = "red"
    switch: Annotated[bool, Option("On or off.", flag=None, chat=None)] = False
    texts: Annotated[tuple[str, ...], Option("Texts.")] = ()
    size: Annotated[int, Option("Bytes.", low=1, size=True)] = 64 << 20
    plain: int = 7


@pytest.mark.parametrize(
    ("name", "wanted", "default", "flag", "setting"),
    [
        ("whole", "a whole number from 1 to 9", "3", "--whole", "whole"),
        ("minimum", "a whole number of at least 1, or none", "", "--minimum", "minimum"),
        ("share", "a number above 0 and at most 1", "the checkpoint's", "--share", "share"),
        ("open", "a number above 0 and below 100", "1", "--other-name", "short"),
        ("kind", "'red', 'blue' or 'green'", "red", "--kind", "kind"),
        ("switch", "true or false", "", "switch", None),
        ("texts", "texts", "", "--texts", "texts"),
        ("size", "a whole number of at least 1", "64M", "--size", "size"),
    ],
)
def test_words_of_a_definition(name: str, wanted: str, default: str, flag: str, setting: str | None) -> None:
    found = definition(Example, name)
    assert (found.wanted, found.default_text, found.flag, found.setting) == (wanted, default, flag, setting)
    assert "plain" not in {each.name for each in definitions(Example)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("whole", value) for value in (1, 9, np.int64(5))],
        *[("minimum", value) for value in (None, 1, 1 << 60)],
        *[("share", value) for value in (1, 1e-9, np.float32(0.5))],
        ("open", 99.9),
        ("kind", "blue"),
        ("switch", True),
        ("texts", ("a", "b")),
    ],
)
def test_values_that_are_accepted(name: str, value: Any) -> None:
    validate(Example(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("whole", 0, "whole=0 is out of range: give a whole number from 1 to 9"),
        ("whole", 10, "whole=10 is out of range"),
        ("whole", 5.0, "whole=5.0 is not supported: give a whole number"),
        ("whole", True, "whole=True is not supported"),
        ("whole", None, "whole=None is not supported"),
        ("whole", "5", "whole='5' is not supported"),
        ("minimum", 0, "minimum=0 is out of range"),
        ("share", 0, "share=0 is out of range"),
        ("share", 1.01, "share=1.01 is out of range"),
        ("share", float("nan"), "share=nan is out of range"),
        ("open", 100, "open=100 is out of range"),
        ("kind", "gren", "kind='gren' is not supported: give 'red', 'blue' or 'green': did you mean 'green'?"),
        ("kind", ["red"], r"kind=\['red'\] is not supported"),
        ("switch", 1, "switch=1 is not supported: give true or false"),
        ("texts", "a", "texts='a' is not supported"),
        ("texts", (1,), r"texts=\[1\] is not supported"),
    ],
)
def test_values_that_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        validate(Example(**{name: value}))


def test_messages_name_an_option_as_the_caller_does() -> None:
    with pytest.raises(OptionError, match="--other-name=0 is out of range"):
        validate(Example(open=0), lambda each: each.flag)


def test_unknown_names_are_refused_with_the_nearest_known_one() -> None:
    refuse_unknown(["kind"], ["kind", "size"])
    with pytest.raises(OptionError, match="unknown option 'knd': did you mean 'kind'"):
        refuse_unknown(["knd"], ["kind", "size"])
    with pytest.raises(OptionError, match="--x: unknown option 'zzz': known are kind, size"):
        refuse_unknown(["zzz"], ["kind", "size"], "--x: ")


@pytest.mark.parametrize(
    "given", [{"temperature": "hot"}, {"ignore_eos": 1}, {"max_tokens": 2.5}, {"seed": "1"}, {"stop": (1,)}]
)
def test_sampling_of_another_type_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(given))}=.* is not supported: give"):
        SamplingParams(**given)


@pytest.mark.parametrize("given", [{"cache": ""}, {"cache": 3}, {"vision_cache": -1}, {"max_seqs": 0}])
def test_loading_refuses_bad_values(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(given))}=.*: give"):
        LoadOptions(**given)


@pytest.mark.parametrize("nbytes", [0, 1, 1023, 1024, 64 << 10, 512 << 20, 3 << 30, (1 << 40) + 1])
def test_a_size_that_is_written_is_read(nbytes: int) -> None:
    assert parse_size(size_text(nbytes), "x") == nbytes


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("2K", 2048), ("1.5m", 3 << 19), ("4GiB", 4 << 30), ("1TB", 1 << 40), (" 7 ", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1X", "1 2", "1e9"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(OptionError, match="--memory"):
        parse_size(text, "--memory")


def test_sizes_for_people() -> None:
    found = [readable_size(value) for value in (5, 1_500, 2_000_000, 3_210_000_000)]
    assert found == ["5 B", "1.5 kB", "2.0 MB", "3.2 GB"]


def test_counts_are_written_as_people_write_them() -> None:
    found = [readable_count(number) for number in (7, 1_500, 5_640_000, 1_300_000_000)]
    assert found == ["7", "1.5 k", "5.6 M", "1.3 B"]
