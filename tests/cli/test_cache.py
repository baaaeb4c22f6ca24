"""`pocketvlm cache` and what `run` says when the cache cannot be used."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from pathlib import Path

import pytest

from pocketvlm import api
from pocketvlm.api import about
from pocketvlm.errors import CacheWarning
from pocketvlm.packfile import read_header


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nano in int4 and int8 and its tokenizer, used 1, 40 and 2 days ago, an unreadable file, and one of
    somebody else.
    """
    monkeypatch.setenv("POCKETVLM_CACHE", str(tmp_path))
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 0)
    place = tmp_path / "packed"
    for weights in ("int4", "int8"):
        api.load("nano", weights=weights)
    for file in place.iterdir():
        days = {"int4": 1, "tokenizer": 2, "int8": 40}[read_header(file).kind]
        os.utime(file, (0, time.time() - days * 86400))
    (place / "odd.packed").write_text("not one of ours")
    os.utime(place / "odd.packed", (0, 86400))
    (place / "notes.txt").write_text("mine")
    return place


def left(place: Path) -> int:
    return len(list(place.glob("*.packed")))


def test_list_for_people_and_programs(invoke, cached):
    outcome = invoke("cache", "list")
    head, first, second, third, fourth = outcome.out.splitlines()
    assert re.split(r" {2,}", head) == ["model", "kind", "size", "last used", "file"]
    assert re.fullmatch(r"nano +int4 +\d+\.\d MB +\d{4}-\d\d-\d\d \d\d:\d\d  [0-9a-f]{32}\.packed", first)
    assert re.split(r" {2,}", second)[:2] == ["nano", "tokenizer"]
    assert re.split(r" {2,}", third)[:2] == ["nano", "int8"]
    assert re.split(r" {2,}", fourth)[:3] == ["(unreadable)", "-", "15 B"]
    facts = json.loads(invoke("cache", "list", "--json").out)
    assert facts["directory"] == str(cached)
    assert [file["kind"] for file in facts["files"]] == ["int4", "tokenizer", "int8", None]
    assert Path(facts["files"][0]["file"]).stat().st_size == facts["files"][0]["bytes"]
    assert facts["files"][0]["path"] == str(api.load("nano").checkpoint.path)


def test_an_empty_cache_is_no_error(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("POCKETVLM_CACHE", str(tmp_path))
    outcome = invoke("cache", "list")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", f"nothing is cached in {tmp_path}/packed\n")
    assert json.loads(invoke("cache", "list", "--json").out)["files"] == []
    assert invoke("cache", "clear").err == "removed 0 files, 0 B\n"
    assert invoke("cache", "path").out == f"{tmp_path}/packed\n"


def test_clear_takes_ages_and_names(invoke, cached):
    assert invoke("cache", "clear", "--older-than", "100000").err == "removed 0 files, 0 B\n"
    outcome = invoke("cache", "clear", "nano", "--older-than", "30", "--json")
    assert [file["kind"] for file in json.loads(outcome.out)["files"]] == ["int8"]
    assert re.fullmatch(r"removed 1 file, \d+\.\d MB\n", outcome.err)
    assert left(cached) == 3
    assert invoke("cache", "clear", "odd", "--quiet").err == ""
    assert left(cached) == 2
    assert invoke("cache", "clear", str(api.load("nano").checkpoint.path)).code == 0
    assert left(cached) == 0
    assert [file.name for file in cached.iterdir()] == ["notes.txt"]


def test_clear_without_names_takes_all(invoke, cached):
    assert invoke("cache", "clear").err.startswith("removed 4 files")
    assert [file.name for file in cached.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("line", "code", "parts"),
    [
        ("cache clear nonsense", 1, ("'nonsense'", "pocketvlm cache list")),
        ("cache clear --older-than -1", 2, ("--older-than", "0 or more")),
        ("cache clear --older-than soon", 2, ("--older-than", "'soon'")),
        ("cache claer", 2, ("'claer'", "Did you mean 'clear'?")),
    ],
)
def test_wrong_use_is_one_line(invoke, cached, line, code, parts):
    outcome = invoke(*line.split())
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert all(part in outcome.err for part in parts)
    assert left(cached) == 4


def test_cache_alone_shows_its_commands(invoke):
    outcome = invoke("cache")
    assert outcome.code == 0
    assert all(f" {name} " in outcome.out for name in ("list", "clear", "path"))


def test_the_place_follows_the_environment(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert invoke("cache", "path").out == f"{tmp_path}/.cache/pocketvlm/packed\n"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert invoke("cache", "path").out == f"{tmp_path}/.cache/pocketvlm/packed\n"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert invoke("cache", "path").out == f"{tmp_path}/x/pocketvlm/packed\n"
    monkeypatch.setenv("POCKETVLM_CACHE", "~/mine")
    assert invoke("cache", "path").out == f"{tmp_path}/mine/packed\n"


def test_run_says_in_one_line_what_is_wrong_with_the_cache(invoke, cached, monkeypatch):
    line = ["run", "nano", "hi", "--max-tokens", "2", "--weights", "int4"]
    assert "warning" not in invoke(*line).err
    for file in cached.glob("*.packed"):
        file.write_bytes(b"")
    assert "warning" not in invoke(*line, "--no-cache").err
    *warned, status = invoke(*line).err.splitlines()
    assert len(warned) == 2  # tokenizer and weights
    for warning in warned:
        assert re.fullmatch(r"warning: \S+\.packed is not used and made again: it has only 0 bytes", warning)
    assert status.startswith("ttft")
    for file in cached.glob("*.packed"):
        file.write_bytes(b"")
    assert invoke(*line, "--quiet").err == ""


def test_warnings_of_ours_and_of_libraries_are_one_line_each(invoke, model, monkeypatch):
    def load(*_: object, **__: object) -> object:
        warnings.warn("ours\nin lines", CacheWarning, stacklevel=1)
        warnings.warn("of a library", UserWarning, stacklevel=1)
        return model

    monkeypatch.setattr("pocketvlm.api.load", load)
    first, second, *_ = invoke("run", "nano", "hi").err.splitlines()
    assert first == "warning: ours in lines"
    assert second == "warning: test_cache: of a library"
