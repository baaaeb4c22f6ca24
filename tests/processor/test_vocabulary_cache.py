"""Cached vocabularies: equal when loaded again; damage to the cache files costs only time."""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from processor_kit import place, same, write_tokenizer

from pocketvlm import packfile
from pocketvlm.errors import CacheWarning
from pocketvlm.processor import vocabulary


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path)


def files(directory: Path) -> list[Path]:
    return sorted((directory / "packed").iterdir())


@pytest.fixture
def never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on tokenizer.json is not parsed."""

    def parse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(vocabulary, "parse", parse)


def test_the_second_load_reads_the_cache(small: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = vocabulary.load(small, place(tmp_path))
    (file,) = files(tmp_path)
    os.utime(file, (1, 1))
    header = packfile.read_header(file)
    assert (header.model, header.path, header.kind) == ("a model", "its directory", "tokenizer")
    copy = tmp_path / "elsewhere.json"
    copy.write_bytes(small.read_bytes())
    request.getfixturevalue("never_read")
    for path in (small, copy):  # what counts is the content
        same(vocabulary.load(path, place(tmp_path)), first)
    assert file.stat().st_mtime > 1
    with pytest.raises(AssertionError, match="read again"):
        vocabulary.load(small)


@pytest.mark.usefixtures("small")
def test_another_content_or_version_is_another_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary.load(small, place(tmp_path))
    text = small.read_bytes()
    small.write_bytes(text + b" ")
    vocabulary.load(small, place(tmp_path))
    assert len(files(tmp_path)) == 2
    small.write_bytes(text)
    for module, name in ((vocabulary, "FORMAT"), (vocabulary, "VERSION"), (vocabulary.sys, "byteorder")):
        monkeypatch.setattr(module, name, "another")
        vocabulary.load(small, place(tmp_path))
        monkeypatch.undo()
    assert len(files(tmp_path)) == 5


def forged(whole: bytes, change: Any) -> bytes:
    """A file with another header that has the right checksum."""
    magic, version, length, _, size, body = struct.unpack_from("<8s5Q", whole)
    header = json.loads(whole[64 : 64 + length])
    header["model"] = header["path"] = ""  # room for what has changed
    change(header)
    text = json.dumps(header).encode().ljust(length)
    assert len(text) == length
    sums = vocabulary._checksum(memoryview(text)), body
    return struct.pack("<8s5Q16x", magic, version, length, sums[0], size, sums[1]) + text + whole[64 + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-700] + bytes([data[-700] ^ 1]) + data[-699:],
        lambda data: data[:100] + b"?" + data[101:],
        lambda data: data[: len(data) // 2],
        lambda data: data[:8] + b"\7" + data[9:],
        lambda data: b"",
        lambda data: os.urandom(5000),
        lambda data: data[:63],
        lambda data: forged(data, lambda header: header["items"].update(tokenizer={})),
        lambda data: forged(data, lambda header: header["items"]["tokenizer"].pop("size")),
        lambda data: forged(data, lambda header: header["items"]["tokenizer"].update(added=[1])),
        lambda data: forged(data, lambda header: header["items"]["tokenizer"]["arrays"].pop("ends")),
    ],
)
def test_a_damaged_file_is_made_again_with_one_warning(small: Path, tmp_path: Path, damage: Any) -> None:
    expected = vocabulary.load(small, place(tmp_path))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(CacheWarning) as caught:
        same(vocabulary.load(small, place(tmp_path)), expected)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"{file} is not used and made again: ")
    assert file.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(vocabulary.load(small, place(tmp_path)), expected)


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (packfile, "write_all", errno.ENOSPC),
        (packfile.os, "fsync", errno.EDQUOT),
        (packfile.Path, "mkdir", errno.EROFS),
        (packfile.os, "open", errno.EACCES),
    ],
)
def test_where_nothing_can_be_written_it_is_read_each_time(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, name, fails)
    with pytest.warns(CacheWarning, match=r"tokenizer of a model cannot be cached.*POCKETVLM_CACHE") as caught:
        found = vocabulary.load(small, place(tmp_path))
    monkeypatch.undo()
    assert len(caught) == 1
    assert os.strerror(number) in str(caught[0].message)
    same(found, vocabulary.load(small))
    assert not list(tmp_path.rglob("packed/*"))


def test_several_threads_make_and_read_it_at_once(small: Path, tmp_path: Path) -> None:
    expected, found = vocabulary.load(small), []
    threads = [threading.Thread(target=lambda: found.append(vocabulary.load(small, place(tmp_path)))) for _ in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    for each in found:
        same(each, expected)
    assert [file.suffix for file in files(tmp_path)] == [".packed"]
