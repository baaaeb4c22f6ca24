"""Batches and files outlive the server: an orderly end, another order of keys, and kill -9 at any point."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server.batch_kit import GATED, Gate, begin, client_of, content, ended, line
from server.kit import EXAMPLES, running, until

import pocketvlm
from pocketvlm.server.run import uploads_in


def test_the_next_server_goes_on(tmp_path: Path) -> None:
    gate = Gate()
    lines = [line("done"), *(line(f"gated-{number}", GATED) for number in range(4)), line("last")]
    with running(prepare=gate.install, data_dir=str(tmp_path)) as server:
        client = client_of(server)
        image = client.files.create(file=EXAMPLES / "dog.png", purpose="vision")
        batch = begin(client, lines)
        client.files.delete(batch.input_file_id)  # its content stays with the batch
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1)
        assert gate.reached.wait(60)
        assert server.context._worker is not None
        server.context._worker._closing = True  # nothing more begins
        server.context._worker._stop.set()
        gate.open.set()
    with running(prepare=gate.install, data_dir=str(tmp_path)) as server:
        client = client_of(server)
        assert client.files.content(image.id).read() == (EXAMPLES / "dog.png").read_bytes()
        done = ended(client, batch)
        assert done.status == "completed"
        found = content(client, done.output_file_id) + content(client, done.error_file_id)
        assert Counter(each["custom_id"] for each in found) == Counter(each["custom_id"] for each in lines)


def test_files_belong_to_a_key_whatever_its_number(tmp_path: Path) -> None:
    first, second = "first-key-1", "second-key-2"
    with running(data_dir=str(tmp_path), api_keys=(first, second)) as server:
        file = client_of(server, first).files.create(file=EXAMPLES / "dog.png", purpose="vision")
        batch = begin(client_of(server, first), [line("a")])
        ended(client_of(server, first), batch)
    with running(data_dir=str(tmp_path), api_keys=(second, first)) as server:
        assert client_of(server, first).files.retrieve(file.id).filename == "dog.png"
        assert client_of(server, first).batches.retrieve(batch.id).status == "completed"
        with pytest.raises(openai.NotFoundError):
            client_of(server, second).files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            client_of(server, second).batches.retrieve(batch.id)


def test_what_a_killed_server_was_writing_is_removed(tmp_path: Path) -> None:
    for name in ("files/file-torn", "batches/batch_torn.input", "batches/batch_torn.journal"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with running(data_dir=str(tmp_path)):
        until(lambda: not list((tmp_path / "batches").iterdir()))
        assert not list((tmp_path / "files").iterdir())


class Process:
    """`pocketvlm serve` as a process of its own."""

    def __init__(self, directory: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(pocketvlm.__file__).parents[1])}
        command = [sys.executable, "-m", "pocketvlm", "serve", "nano", "--port", "0", "--data-dir", str(directory)]
        self.process = subprocess.Popen(
            [*command, "--threads", "1", "--max-seqs", "4", "--log", "none"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        url = re.search(r"http://[\d.]+:\d+", self.process.stderr.readline())
        assert url is not None
        self.client = openai.OpenAI(base_url=f"{url[0]}/v1", api_key="none", max_retries=0, timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def has_lines(server: Process, batch: Any, journal: Path, count: int) -> bool:
    """Whether so many lines of a batch are finished."""
    if journal.exists():
        return journal.read_bytes().count(b"\n") >= count
    return server.client.batches.retrieve(batch.id).status == "completed"


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.long)])
def test_killed_servers_lose_no_line_and_answer_none_twice(tmp_path: Path, kills: int) -> None:
    """At random points of the journal's growth, or of the end."""
    rng, count = random.Random(kills), 60
    lines = [line(f"id-{number}", f"hello {number}", max_tokens=12) for number in range(count)]
    server = Process(tmp_path)
    batch = begin(server.client, lines)
    journal = tmp_path / "batches" / f"{batch.id}.journal"
    for finished in sorted(rng.sample(range(1, count), kills)):
        until(partial(has_lines, server, batch, journal, finished), 120)
        server.kill()
        server = Process(tmp_path)
    try:
        done = ended(server.client, batch)
        assert done.status == "completed"
        found = content(server.client, done.output_file_id)
        assert [each["custom_id"] for each in found] == [each["custom_id"] for each in lines]
        assert len({each["id"] for each in found}) == count
        with pytest.raises(openai.NotFoundError):
            server.client.batches.retrieve("batch_other")
    except httpx.HTTPError as error:
        pytest.fail(f"the server is gone: {error}")
    finally:
        server.kill()


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_uploads_on_their_way_are_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    """TMPDIR wins, and the process has its own directory again afterwards."""
    monkeypatch.delenv("TMPDIR", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TMPDIR", chosen)
    before = tempfile.tempdir
    for data_dir, expected in ((tmp_path, str(tmp_path) if chosen is None else before), (None, before)):
        with uploads_in(data_dir):
            assert tempfile.tempdir == expected
        assert tempfile.tempdir == before
