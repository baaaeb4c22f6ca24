"""Features of views: computed once, bounded in memory and on disk, and never wrong, whatever happens to the files."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_kit import Run, alone, ask, engine_of, network, pictured
from oracle import Oracle

from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.engine.request import Sequence
from pocketvlm.errors import CacheWarning, OptionError
from pocketvlm.model import MiniCPMV


@pytest.fixture(scope="module")
def model(oracle: Oracle) -> MiniCPMV:
    return network(oracle)


def rows(seed: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)


def test_the_same_picture_is_encoded_once(oracle: Oracle, model: MiniCPMV) -> None:
    run = Run(engine_of(model, prefix_cache=0))
    prompt = pictured(oracle, 1)
    for seed in range(3):
        number = run.add(ask(prompt, seed=seed))
        run.finish()
        assert run.tokens(number) == alone(model, ask(prompt, seed=seed))[0]
    stats = run.engine.stats()
    assert (stats.vision_hits, stats.vision_misses) == (4, 2)
    nameless = replace(prompt, views=tuple(replace(view, digest="") for view in prompt.views))
    for _ in range(2):
        run.add(ask(nameless))
        run.finish()
    assert run.engine.stats().vision_misses == 6


def test_memory_holds_what_was_used_last(oracle: Oracle, model: MiniCPMV) -> None:
    width = oracle.config.text.hidden_size
    engine = engine_of(model, prefix_cache=0, vision_cache=2 * 2 * width * 4)  # two views of two tokens
    run = Run(engine)
    prompts = [pictured(oracle, seed, views=1) for seed in range(3)]
    for index in (0, 1, 0, 2, 0, 1):
        run.add(ask(prompts[index], 1))
        run.finish()
        assert engine.vision.nbytes <= engine.vision.limit
        assert engine.vision.nbytes == sum(features.nbytes for features in engine.vision._cached.values())
    assert (engine.vision.hits, engine.vision.misses) == (2, 4)


def test_files_outlive_the_engine(oracle: Oracle, model: MiniCPMV, tmp_path: Path) -> None:
    prompt = pictured(oracle, 1)
    answers = []
    for _ in range(2):
        run = Run(engine_of(model, vision_files=FeatureFiles(tmp_path, "a")))
        number = run.add(ask(prompt))
        run.finish()
        answers.append(run.rows(number))
    np.testing.assert_array_equal(*answers)
    assert (run.engine.vision.hits, run.engine.vision.misses) == (2, 0)
    assert run.engine.stats().vision_disk_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    other = Run(engine_of(model, vision_files=FeatureFiles(tmp_path, "other weights")))
    other.add(ask(prompt))
    other.finish()
    assert other.engine.vision.misses == 2


def test_a_file_damaged_anywhere_is_dropped(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "a")
    files.write("v", rows(1))
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for damaged in [
        *(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good))),
        *(good[:length] for length in range(len(good))),
        good + b"x",
    ]:
        path.write_bytes(damaged)
        assert FeatureFiles(tmp_path, "a").read("v", 6, 5) is None
        assert not path.exists()
    path.write_bytes(good)
    found = files.read("v", 6, 5)
    assert found is not None
    np.testing.assert_array_equal(found, rows(1))
    assert files.nbytes == len(good)


def test_features_of_another_shape_or_under_another_name_are_not_taken(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "a")
    files.write("v", rows(1))
    (path,) = tmp_path.iterdir()
    path.rename(files._path("w"))
    assert files.read("w", 6, 5) is None
    files.write("v", rows(1))
    assert files.read("v", 5, 6) is None
    assert list(tmp_path.iterdir()) == []


def test_files_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "a")
    files.write("0", rows(0))
    size = files.nbytes
    for number in range(1, 6):
        files.write(str(number), rows(number))
    for age, number in enumerate([3, 0, 4, 1, 5, 2]):  # used in this order
        os.utime(files._path(str(number)), (1000 + age, 1000 + age))
    small = FeatureFiles(tmp_path, "a", limit=3 * size)
    cached = [number for number in range(6) if files._path(str(number)).exists()]
    assert cached == [1, 2, 5]
    assert small.read("1", 6, 5) is not None
    small.write("6", rows(6))
    assert [number for number in range(7) if small._path(str(number)).exists()] == [1, 2, 6]
    assert small.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir()) == 3 * size
    small.write("large", rows(7, 100))
    assert small.read("large", 100, 5) is None


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    for name, age in ((".a.1.x.tmp", 3600), (".b.2.x.tmp", 0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "README").write_text("not ours")
    FeatureFiles(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.2.x.tmp", "README"]


def test_a_file_that_another_process_removed_is_a_miss(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "a")
    files.write("v", rows(1))
    next(tmp_path.iterdir()).unlink()
    assert files.read("v", 6, 5) is None
    assert files.nbytes == 0


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="file"):
        FeatureFiles(tmp_path / "file", "a")
    files = FeatureFiles(tmp_path / "new" / "deep", "a")
    (tmp_path / "new" / "deep").rmdir()
    with pytest.warns(CacheWarning, match="deep"):
        files.write("v", rows(1))
    files.write("v", rows(1))  # said once
    assert files.nbytes == 0


def test_a_query_for_missing_features_changes_nothing(oracle: Oracle, model: MiniCPMV) -> None:
    run, prompt = Run(engine_of(model)), pictured(oracle, 1)
    run.add(ask(prompt))
    run.finish()
    vision, again = run.engine.vision, Sequence(9, ask(prompt), 1, np.random.default_rng(0))
    hits, length = vision.hits, len(prompt.ids)
    for _ in range(2):
        assert list(vision.missing(again, 0, length)) == list(range(len(prompt.views)))
    assert (again.features, vision.hits) == ({}, hits)
    vision.attach_cached_features(again, 0, length)
    assert not list(vision.missing(again, 0, length))
    assert vision.hits == hits + len(prompt.views)
