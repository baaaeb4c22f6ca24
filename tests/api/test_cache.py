"""load() with a cache of packed weights and tokenizers: equal answers; damage to the files costs only time."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pocketvlm
from pocketvlm import Model, OptionError, packfile
from pocketvlm.api import about
from pocketvlm.backends import cache as packed_cache
from pocketvlm.backends.native import packed_cache as native_cache
from pocketvlm.backends.native.matrices import Tied
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.errors import CacheWarning, CheckpointError
from pocketvlm.processor import vocabulary
from pocketvlm.processor.messages import as_messages


@pytest.fixture(autouse=True)
def _keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 0)


def load(cache: Any, **options: Any) -> Model:
    return pocketvlm.load("nano", cache=cache, **{"weights": "int4", "threads": 2, **options})


def state(model: Model) -> str:
    return model.info()["backend"].get("packed weights", "none")


def logits(model: Model) -> np.ndarray:
    image = np.arange(150 * 170 * 3, dtype=np.uint32).astype(np.uint8).reshape(150, 170, 3)
    return model.logits(model.processor(as_messages("What is this?", [image])))


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return logits(load(False))


def files(directory: Path, kind: str = "weights") -> list[Path]:
    """The cache files of a kind: "weights" of any type, "tokenizer", or "half" for unfinished files."""

    def kind_of(file: Path) -> str:
        if file.suffix == ".tmp":
            return "half"
        return "tokenizer" if packfile.read_header(file).kind == "tokenizer" else "weights"

    return [file for file in sorted((directory / "packed").iterdir()) if kind_of(file) == kind]


def test_the_second_start_reads_what_the_first_one_cached(tmp_path: Path, expected: np.ndarray) -> None:
    first = load(tmp_path)
    assert state(first).startswith("encoded, cached in ")
    (file,) = files(tmp_path)
    os.utime(file, (1, 1))
    second = load(tmp_path)
    assert state(second) == f"read from {file}"
    assert file.stat().st_mtime > 1
    for model in (first, second):
        np.testing.assert_array_equal(logits(model), expected)
    tied = second.engine.model.weights.embed_tokens
    assert isinstance(tied, Tied)
    assert isinstance(tied.packed, PackedMatrix)
    assert not tied.packed.codes.flags.writeable
    assert state(load(False)) == "none"


def test_codes_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path)
    open_packed = native_cache.open_packed

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return open_packed(*arguments)

    monkeypatch.setattr(native_cache, "open_packed", slowly)
    assert state(load(tmp_path)).startswith("read from")


def test_each_plan_and_each_content_has_its_own_file(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(embedded_directory(), copy)
    cache = tmp_path / "cache"
    for weights in ("int4", "int8"):
        load(cache, weights=weights)
    assert len(files(cache)) == 2
    assert state(pocketvlm.load(copy, weights="int4", cache=cache)).startswith("read")  # the same file, with its time
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[len(data) // 63 * 20] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert state(pocketvlm.load(copy, weights="int4", cache=cache)).startswith("encoded")
    assert len(files(cache)) == 3
    for options in ({"weights": "bf16"}, {"weights": "auto", "precision": "exact"}):
        assert state(load(cache, **options)) == "none"
    assert len(files(cache)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:],
        lambda data: data[: len(data) // 2],
        lambda data: data[:8] + b"\7" + data[9:],
        lambda data: b"",
        lambda data: os.urandom(5000),
    ],
    ids=["one bit", "cut off", "other version", "empty", "garbage"],
)
def test_a_damaged_file_is_made_again_with_one_warning(tmp_path: Path, expected: np.ndarray, damage: Any) -> None:
    load(tmp_path)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(CacheWarning) as caught:
        model = load(tmp_path)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"{file} is not used and made again: ")
    np.testing.assert_array_equal(logits(model), expected)
    assert file.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert state(load(tmp_path)).startswith("read from")


def fails(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (packfile, "write_all", errno.ENOSPC),
        (packfile.os, "fsync", errno.EDQUOT),
        (packfile.Path, "mkdir", errno.EROFS),
        (packfile.os, "open", errno.EACCES),
    ],
)
def test_loading_goes_on_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray, module: Any, name: str, number: int
) -> None:
    monkeypatch.setattr(module, name, fails(number))
    with pytest.warns(CacheWarning, match=r"of nano cannot be cached.*POCKETVLM_CACHE") as caught:
        model = load(tmp_path)
    monkeypatch.undo()
    assert sorted(str(each.message).split()[2] for each in caught) == ["tokenizer", "weights"]
    assert all(os.strerror(number) in str(each.message) for each in caught)
    assert os.strerror(number) in state(model)
    np.testing.assert_array_equal(logits(model), expected)
    assert not list(tmp_path.rglob("*.*"))


def test_a_directory_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.warns(CacheWarning) as caught:
        load(tmp_path / "file")
    assert 2 <= len(caught) <= 4  # either may also find that there is nothing to read


def test_a_broken_build_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pocketvlm.load("nano", cache=tmp_path, progress=stop)
    assert files(tmp_path, "weights") == files(tmp_path, "half") == []


def test_without_a_home_loading_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("POCKETVLM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(packed_cache.Path, "home", homeless)
    with pytest.warns(CacheWarning, match=r"nano are not cached: there is no home directory.*POCKETVLM_CACHE"):
        assert state(load(True)) == "none"


def test_the_default_place_and_small_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETVLM_CACHE", str(tmp_path))
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 64_000_000)
    assert state(load(True)) == "none"
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 0)
    assert state(load(True)).startswith(f"encoded, cached in {tmp_path}/packed/")


@pytest.mark.parametrize(
    "options",
    [{}, {"weights": "bf16"}, {"weights": "auto", "precision": "exact"}, {"weights": "auto", "backend": "torch"}],
)
def test_the_tokenizer_is_cached_with_any_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    threads = None if options.get("backend") == "torch" else 2
    first = load(tmp_path, **{"threads": threads, **options})
    assert len(files(tmp_path, "tokenizer")) == 1

    def parse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(vocabulary, "parse", parse)
    second = load(tmp_path, **{"threads": threads, **options})
    text = "What is this, été? <|im_end|>"
    assert second.processor.tokenizer.encode_template(text) == first.processor.tokenizer.encode_template(text)
    with pytest.raises(AssertionError, match="read again"):
        load(False, **{"threads": threads, **options})


def test_without_a_cache_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETVLM_CACHE", str(tmp_path))
    load(True)
    for file in (tmp_path / "packed").iterdir():
        file.write_bytes(b"damaged")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "packed").iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(False)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "packed").iterdir()} == before
    assert {file.read_bytes() for file in before} == {b"damaged"}


def test_a_tokenizer_that_cannot_be_used_is_said_before_weights_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.enumerate()
    copy = tmp_path / "copy"
    shutil.copytree(embedded_directory(), copy)
    load_tokenizer, done = (copy / "tokenizer.json").read_text(), []
    (copy / "tokenizer.json").write_text(load_tokenizer[:-100])
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        pocketvlm.load(copy, weights="int4", cache=tmp_path, progress=lambda *at: done.append(at))
    assert not done
    assert not list(tmp_path.rglob("*.packed"))
    assert not [thread for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize("bad", [3, "", 1.5, b"x", None])
def test_a_cache_that_is_no_place_is_refused(bad: Any) -> None:
    with pytest.raises(OptionError, match="cache="):
        load(bad)


SCRIPT = """
import os, signal, sys
from pocketvlm import api
from pocketvlm.api import about
from pocketvlm import packfile
about.MIN_CACHED_BYTES = 0
put, calls = packfile.write_all, []
def dying(*arguments):
    put(*arguments)
    calls.append(1)
    if len(calls) == 3:  # the tokenizer takes two
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "die":
    packfile.write_all = dying
model = api.load("nano", weights="int4", cache=sys.argv[1], threads=1)
print(model.ask("Hello", max_tokens=8, temperature=0).token_ids)
"""


def start(directory: Path, how: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(pocketvlm.__file__).parents[1])}
    command = [sys.executable, "-W", "error::pocketvlm.errors.CacheWarning", "-c", SCRIPT, str(directory), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, "live") for _ in range(3)]
    answers = {process.communicate(timeout=100)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(answers) == 1
    assert [len(files(tmp_path, kind)) for kind in ("weights", "tokenizer", "half")] == [1, 1, 0]
    assert state(load(tmp_path)).startswith("read from")


def test_killed_while_writing(tmp_path: Path, expected: np.ndarray) -> None:
    process = start(tmp_path, "die")
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    (half,) = files(tmp_path, "half")
    os.utime(half, (1, 1))
    model = load(tmp_path)
    np.testing.assert_array_equal(logits(model), expected)
    assert [len(files(tmp_path, kind)) for kind in ("weights", "tokenizer", "half")] == [1, 1, 0]


def test_a_file_of_other_forms_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, weights="int8")
    (file,) = files(tmp_path)
    monkeypatch.setattr(native_cache, "file_name", lambda *_: file.name)
    assert state(load(tmp_path)).startswith("encoded")
