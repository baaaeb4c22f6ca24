"""OpenAI's batches over HTTP: answers, errors, counts, and what is refused."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from server.batch_kit import CHAT, FIRST, GATED, MORE, Gate, begin, client_of, content, ended, line
from server.kit import EXAMPLES, Running, running, until

from pocketvlm.errors import OptionError
from pocketvlm.server.database import Database


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("data")
    with running(data_dir=str(directory), max_body_bytes=200_000, max_batch_bytes=400_000) as found:
        yield found
        assert not list((directory / "batches").iterdir())


def test_a_batch_answers_as_the_server_does(stored: Running) -> None:
    client = client_of(stored)
    lines = [line(f"id-{number}", f"hello {number}") for number in range(20)]
    lines[5]["body"]["model"] = "other"
    batch = begin(client, lines, metadata={"name": "mine"})
    assert batch.object == "batch"
    assert batch.status in ("validating", "in_progress", "finalizing", "completed")
    assert batch.metadata == {"name": "mine"}
    assert batch.expires_at - batch.created_at == 24 * 3600
    done = ended(client, batch)
    assert done.status == "completed"
    assert done.errors is None
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 19, 1)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    found = content(client, done.output_file_id)
    assert [each["custom_id"] for each in found] == [f"id-{number}" for number in range(20) if number != 5]
    live = client.chat.completions.create(**{"model": "nano", **lines[7]["body"]})
    (same,) = (each for each in found if each["custom_id"] == "id-7")
    assert same["response"]["body"]["choices"][0]["message"]["content"] == live.choices[0].message.content
    assert done.usage.output_tokens == sum(each["response"]["body"]["usage"]["completion_tokens"] for each in found)
    (wrong,) = content(client, done.error_file_id)
    assert (wrong["custom_id"], wrong["response"]["status_code"], wrong["error"]) == ("id-5", 404, None)
    output = client.files.retrieve(done.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    with pytest.raises(openai.ConflictError, match="the batch has ended"):
        client.batches.cancel(batch.id)


def test_pages_of_batches(stored: Running) -> None:
    client = client_of(stored)
    made = [begin(client, [line("a")]).id for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]  # the client asks for further pages
    assert listed[:3] == made[::-1]
    page = client.batches.list(limit=2)
    assert page.has_more
    assert [batch.id for batch in client.batches.list(after=made[1], limit=1).data] == [made[0]]
    with pytest.raises(openai.NotFoundError, match="no such batch in this list"):
        client.batches.list(after="batch_x")
    for batch_id in made:
        ended(client, client.batches.retrieve(batch_id))


@pytest.mark.parametrize(
    ("lines", "code", "message", "number"),
    [
        ([line("a"), "{"], "invalid_json_line", "line 2: this is not valid JSON", 2),
        ([line("a"), line("a")], "duplicate_custom_id", "line 2: an earlier line has custom_id='a'", 2),
        ([line("a", url="/v1/responses")], "mismatched_endpoint", "line 1: url='/v1/responses' differs", 1),
        ([line("a", url="/v1/embeddings")], "invalid_url", "line 1: url='/v1/embeddings' is not supported", 1),
        ([line("a", "x" * 250_000)], "line_too_long", "line 1: a line has at most 200000 bytes", 1),
        (["", " "], "empty_file", "the input file has no lines", None),
    ],
)
def test_a_file_with_a_wrong_line_fails_before_any_work(
    stored: Running, lines: list[Any], code: str, message: str, number: int | None
) -> None:
    client = client_of(stored)
    batch = ended(client, begin(client, lines))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    (error,) = batch.errors.data
    assert (error.code, error.line) == (code, number)
    assert error.message.startswith(message)
    assert batch.output_file_id is None


def test_at_most_twenty_errors_are_told(stored: Running) -> None:
    client = client_of(stored)
    assert len(ended(client, begin(client, ["{"] * 50)).errors.data) == 20


def test_what_cannot_begin(stored: Running) -> None:
    client = client_of(stored)
    image = client.files.create(file=EXAMPLES / "dog.png", purpose="vision")
    lines = client.files.create(file=("a.jsonl", io.BytesIO(json.dumps(line("a")).encode())), purpose="batch")
    with pytest.raises(openai.NotFoundError, match="no file with the id 'file-x'"):
        client.batches.create(input_file_id="file-x", endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="purpose 'vision': upload it with the purpose 'batch'"):
        client.batches.create(input_file_id=image.id, endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(input_file_id=lines.id, endpoint="/v1/embeddings", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="completion_window='99d' is no time of at most 30 days"):
        client.batches.create(input_file_id=lines.id, endpoint=CHAT, completion_window="99d")  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError, match="no batch with the id"):
        client.batches.retrieve("batch_x")
    body = {"input_file_id": lines.id, "endpoint": CHAT, "completion_window": "24h", "colour": 1}
    response = stored.client.post("/v1/batches", json=body)
    assert response.headers["x-ignored-fields"] == "colour"
    ended(client, client.batches.retrieve(response.json()["id"]))
    with pytest.raises(openai.BadRequestError, match="for files that the server writes"):
        client.files.create(file=EXAMPLES / "dog.png", purpose="batch_output")  # type: ignore[arg-type]


def test_batch_files_may_be_larger_than_other_bodies(stored: Running) -> None:
    client = client_of(stored)
    many = "".join(json.dumps(line(str(number), "x" * 1000)) + "\n" for number in range(280)).encode()
    assert 300_000 < len(many) < 400_000
    assert client.files.create(file=("a.jsonl", io.BytesIO(many)), purpose="batch").bytes == len(many)
    for data in (many * 2, many + b" " * (400_100 - len(many))):
        with pytest.raises(openai.APIStatusError) as large:
            client.files.create(file=("a.jsonl", io.BytesIO(data)), purpose="batch")
        assert large.value.status_code == 413
    assert stored.client.post(CHAT, content=b" " * 250_000).status_code == 413


def test_lines_obey_the_servers_rules(tmp_path: Path) -> None:
    """Files below the allowed path, uploads of the same key, public addresses; nothing else."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "dog.png").write_bytes((EXAMPLES / "dog.png").read_bytes())
    settings = {"data_dir": str(tmp_path / "data"), "allowed_media_path": (str(allowed),)}
    with running(api_keys=("first-key-1", "second-key-2"), **settings) as server:
        client, other = client_of(server, "first-key-1"), client_of(server, "second-key-2")
        mine, theirs = (each.files.create(file=EXAMPLES / "dog.png", purpose="vision").id for each in (client, other))

        def image(**source: Any) -> list[dict[str, Any]]:
            return [{"type": "image_url", "image_url": source}, {"type": "text", "text": "What is this?"}]

        lines = {
            "file": (image(url=f"file://{allowed}/dog.png"), ""),
            "mine": (image(file_id=mine), ""),
            "theirs": (image(file_id=theirs), "no file with the id"),
            "outside": (image(url=f"file://{EXAMPLES}/dog.png"), "not below an allowed media path"),
            "inner": (image(url="http://127.0.0.1:1/a.png"), "is not on the public internet"),
            "path": (image(url="allowed/dog.png"), "not valid base64|base64"),
            "many": (image(file_id=mine), "n=99 is more than the limit of 16"),
        }
        batch = begin(client, [line(name, each, n=99 if name == "many" else 1) for name, (each, _) in lines.items()])
        done = ended(client, batch)
        answers, errors = content(client, done.output_file_id), content(client, done.error_file_id)
        assert [each["custom_id"] for each in answers] == ["file", "mine"]
        assert {each["custom_id"] for each in errors} == {name for name, (_, why) in lines.items() if why}
        for each in errors:
            message = each["response"]["body"]["error"]["message"]
            assert any(why in message for why in lines[each["custom_id"]][1].split("|")), message
        with pytest.raises(openai.NotFoundError):
            other.batches.retrieve(batch.id)
        assert [each.id for each in client.batches.list()] == [batch.id]
        assert not list(other.batches.list())


def test_a_cancelled_batch_has_what_was_finished(tmp_path: Path) -> None:
    gate = Gate()
    with running(prepare=gate.install, data_dir=str(tmp_path)) as server:
        client = client_of(server)
        lines = [line("done", FIRST), *(line(f"gated-{number}", GATED) for number in range(MORE)), line("later")]
        batch = begin(client, lines)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1)
        assert gate.reached.wait(60)
        queued = begin(client, [line("a")])
        assert client.batches.cancel(queued.id).status == "cancelling"
        assert client.batches.cancel(batch.id).status == "cancelling"
        assert client.batches.cancel(batch.id).status == "cancelling"
        gate.open.set()
        done = ended(client, batch)
        assert done.status == "cancelled"
        assert done.cancelling_at <= done.cancelled_at
        answers, errors = content(client, done.output_file_id), content(client, done.error_file_id)
        assert "done" in [each["custom_id"] for each in answers]
        assert len(answers) + len(errors) == len(lines)
        assert {each["error"]["code"] for each in errors if each["error"]} == {"batch_cancelled"}
        assert ended(client, queued).status == "cancelled"


def test_an_expired_batch_says_what_is_missing(tmp_path: Path) -> None:
    gate = Gate()
    with running(prepare=gate.install, data_dir=str(tmp_path)) as server:
        client = client_of(server)
        batch = begin(client, [line("done", FIRST), *(line(str(each), GATED) for each in range(MORE))])
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1)
        assert gate.reached.wait(60)
        assert server.context._worker is not None
        current = server.context._worker._answered
        assert current is not None
        current.expires = 1.0
        until(server.context._worker._stop.is_set)
        gate.open.set()
        done = ended(client, batch)
        assert done.status == "expired"
        assert done.expired_at is not None
        errors = content(client, done.error_file_id)
        assert "batch_expired" in {each["error"]["code"] for each in errors if each["error"]}
        assert len(errors) + len(content(client, done.output_file_id)) == 1 + MORE


def test_without_a_data_directory_there_are_no_batches(server: Running) -> None:
    client = client_of(server)
    for call in (
        lambda: client.files.create(file=("a.jsonl", io.BytesIO(b"{}")), purpose="batch"),
        lambda: client.batches.create(input_file_id="file-x", endpoint=CHAT, completion_window="24h"),
        client.batches.list,
        lambda: client.batches.retrieve("batch_x"),
        lambda: client.batches.cancel("batch_x"),
    ):
        with pytest.raises(openai.APIStatusError, match="start the server with --data-dir DIR") as refused:
            call()
        assert refused.value.status_code == 501


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(data_dir=str(tmp_path)) as server:
        store = server.context.files

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store, "make", full)
        response = server.client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "batch"})
        assert response.status_code == 507
        assert response.json()["error"]["message"] == "the server's disk is full: try again when there is room"
        monkeypatch.undo()
        assert server.client.post("/v1/files", files={"file": ("a", b"x")}).status_code == 200
    assert len(list((tmp_path / "files").iterdir())) == 1


def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "data"))
    with pytest.raises(OptionError, match=r"--data-dir=.*another server uses it"):
        Database(str(tmp_path / "data"))
    database.close()
    Database(str(tmp_path / "data")).close()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OptionError, match=r"--data-dir=.*/file: cannot be used: (Not a directory|File exists)"):
        Database(str(tmp_path / "file"))
    (tmp_path / "data" / "index.sqlite").write_bytes(b"no database, but long enough to be seen" * 100)
    with pytest.raises(OptionError, match=r"--data-dir=.*cannot be used: file is not a database"):
        Database(str(tmp_path / "data"))
