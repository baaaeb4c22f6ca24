"""Ray Data on a cluster of several nodes: every row once, whatever ends in between."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.scale

EXAMPLES = Path(__file__).parents[2] / "examples"
PENGUIN, DOG = str(EXAMPLES / "penguin.png"), str(EXAMPLES / "dog.png")


def word(row: dict[str, Any]) -> dict[str, Any]:
    """One token about a text: as little work as a row can be."""
    return {"prompt": f"{row['id']}", "sampling_params": {"temperature": 0, "max_tokens": 1}}


def test_pictures_become_rows_with_text_and_errors_of_their_own(cluster: Any, tmp_path: Path) -> None:
    import ray

    from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor

    config = PocketVLMEngineProcessorConfig("nano", batch_size=4, should_continue_on_error=True)
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "prompt": "What is this?",
            "image": row["path"],
            "sampling_params": {"temperature": 0, "max_tokens": 12},
        },
        postprocess=lambda row: {"id": row["id"], "text": row["generated_text"]},
    )
    paths = [PENGUIN, DOG, "/nowhere.png"] * 4
    rows = processor(ray.data.from_items([{"id": i, "path": path} for i, path in enumerate(paths)])).take_all()
    assert sorted(row["id"] for row in rows if row["text"] is not None) == [i for i in range(12) if i % 3 != 2]
    assert {row["text"] for row in rows if row["id"] % 3 == 0} == {"A penguin emoji."}
    failed = [row for row in rows if row["__inference_error__"]]
    assert len(failed) == 4
    assert all("/nowhere.png" in row["__inference_error__"] for row in failed)


def test_a_row_that_fails_ends_a_job_that_may_not_continue(cluster: Any) -> None:
    import ray

    from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor

    processor = build_processor(
        PocketVLMEngineProcessorConfig("nano"), preprocess=lambda row: {"prompt": "What?", "image": row["path"]}
    )
    with pytest.raises(Exception, match=r"row id=7: .*/nowhere.png: no such file"):
        processor(ray.data.from_items([{"id": 7, "path": "/nowhere.png"}])).take_all()


def test_an_actor_that_cannot_load_says_why_and_ends_the_job(cluster: Any) -> None:
    import ray

    from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor

    processor = build_processor(PocketVLMEngineProcessorConfig("/no/such/model"), preprocess=word)
    with pytest.raises(Exception, match=r"cannot load model_source='/no/such/model'"):
        processor(ray.data.range(3)).take_all()


def test_a_node_that_dies_in_the_middle_costs_no_row_of_ten_thousand(cluster: Any, tmp_path: Path) -> None:
    import ray

    from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor

    config = PocketVLMEngineProcessorConfig("nano", batch_size=50, concurrency=(1, 2))
    processor = build_processor(
        config, preprocess=word, postprocess=lambda row: {"id": row["id"], "count": row["num_generated_tokens"]}
    )
    done = processor(ray.data.range(10_000, override_num_blocks=40))
    found: Counter[int] = Counter()
    killed = False
    for batch in done.iter_batches(batch_size=100, batch_format="numpy"):
        found.update(batch["id"].tolist())
        assert set(batch["count"].tolist()) == {1}
        if not killed and len(found) >= 1000:
            killed = True
            cluster.remove_node(cluster.workers[0], allow_graceful=False)
    assert killed
    assert len(found) == 10_000
    assert set(found.values()) == {1}


# The last file's rows wait for a gate, so that the job is unfinished for as long as the test wants.
JOB = """
import os, ray, sys, time
from ray.data.checkpoint import CheckpointConfig
from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor
source, target, checkpoint, gate = sys.argv[1:]
def after(row):
    while row["id"] >= 950 and not os.path.exists(gate):
        time.sleep(0.05)
    return {"id": row["id"], "text": row["generated_text"]}
ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
context = ray.data.DataContext.get_current()
context.checkpoint_config = CheckpointConfig("id", checkpoint)
context.target_max_block_size = context.target_min_block_size = 1 << 20  # else these files are one block
processor = build_processor(
    PocketVLMEngineProcessorConfig("nano", batch_size=20),
    preprocess=lambda row: {"prompt": f"{row['id']}", "sampling_params": {"temperature": 0, "max_tokens": 2}},
    postprocess=after,
)
processor(ray.data.read_parquet(source)).write_parquet(target)
"""


def test_a_driver_that_is_killed_starts_again_from_the_checkpoint(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, target, checkpoint = tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint"
    source.mkdir()
    for part in range(20):
        ids = list(range(part * 50, part * 50 + 50))
        rows = {"id": ids, "picture": [os.urandom(40_000) for _ in ids]}
        pq.write_table(pa.table(rows), source / f"{part:02}.parquet")
    gate = tmp_path / "gate"
    command = [sys.executable, "-c", JOB, str(source), str(target), str(checkpoint), str(gate)]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and len(list(checkpoint.glob("**/*.parquet"))) < 3:
        time.sleep(0.05)
    assert first.poll() is None, "the job ended by itself"
    os.killpg(first.pid, 9)
    first.wait()
    written = sum(len(pq.read_table(each)) for each in checkpoint.glob("**/*.parquet"))
    assert 0 < written < 1000
    gate.touch()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ids = Counter(pq.read_table(target)["id"].to_pylist())
    assert len(ids) == 1000
    assert set(ids.values()) == {1}
