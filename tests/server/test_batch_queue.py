"""Batches that wait: for another one, or for an adapter. They are validated and cancelled, and expire, meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from nano_adapters import write_adapter
from server.batch_kit import FIRST, GATED, MORE, Gate, begin, client_of, content, ended, line
from server.kit import Running, running, until


@contextmanager
def occupied(tmp_path: Path) -> Iterator[tuple[Running, openai.OpenAI, Any, Gate]]:
    """A server whose first batch has begun and cannot end before the gate opens."""
    gate = Gate()
    with running(prepare=gate.install, data_dir=str(tmp_path)) as server:
        client = client_of(server)
        first = begin(client, [line("done", FIRST), *(line(str(each), GATED) for each in range(MORE))])
        assert gate.reached.wait(60)
        try:
            yield server, client, first, gate
        finally:
            gate.open.set()


def status(client: openai.OpenAI, batch: Any, *wanted: str) -> Any:
    """The batch once it has one of these statuses."""

    def check() -> Any:
        found = client.batches.retrieve(batch.id)
        return found if found.status in wanted else None

    return until(check, 60)


def test_waiting_batches_are_validated_and_cancelled_and_run_in_order(tmp_path: Path) -> None:
    with occupied(tmp_path) as (_, client, first, gate):
        queued, cancelled, wrong, last = (begin(client, [line(name)]) for name in ("a", "b", "c", "d"))
        bad = begin(client, ["{"])
        assert status(client, bad, "failed").errors.data[0].code == "invalid_json_line"
        assert status(client, queued, "in_progress").request_counts.total == 1
        client.batches.cancel(cancelled.id)
        client.batches.cancel(wrong.id)
        for each in (cancelled, wrong):
            found = status(client, each, "cancelled")
            assert found.output_file_id is None
            (error,) = content(client, found.error_file_id)
            assert error["error"]["code"] == "batch_cancelled"
        assert client.batches.retrieve(first.id).status == "in_progress"
        gate.open.set()
        ends = [ended(client, each) for each in (first, queued, last)]
        assert [each.status for each in ends] == ["completed"] * 3
        assert sorted(each.finalizing_at for each in ends) == [each.finalizing_at for each in ends]


def test_a_waiting_batch_expires_while_another_runs(tmp_path: Path) -> None:
    with occupied(tmp_path) as (server, client, first, _):
        queued = begin(client, [line("a")])
        status(client, queued, "in_progress")
        store, owner = server.context.batch_store, ""
        waiting = store.get(queued.id, "openai", owner)
        waiting.expires = 1.0
        store.update(waiting)
        found = status(client, queued, "expired")
        assert [each["error"]["code"] for each in content(client, found.error_file_id)] == ["batch_expired"]
        assert client.batches.retrieve(first.id).status == "in_progress"


def test_after_a_restart_a_batch_waits_for_the_adapter_of_its_lines(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    write_adapter(folder / "first", 1)
    options: dict[str, Any] = {
        "data_dir": str(tmp_path / "data"), "allow_adapter_loading": True, "adapter_dir": str(folder),
    }  # fmt: skip
    load = {"lora_name": "first", "lora_path": "first"}
    gate = Gate()
    lines = [line(str(number), GATED) for number in range(MORE)]
    lines += [line("base", "hello"), line("adapter", "hello", model="first")]
    with running(prepare=gate.install, **options) as server:
        client = client_of(server)
        assert server.client.post("/v1/load_lora_adapter", json=load).status_code == 200
        batch = begin(client, lines)
        assert gate.reached.wait(60)
        worker = server.context._worker
        assert worker is not None
        worker._closing = True  # nothing more begins
        worker._stop.set()
        gate.open.set()
    with running(prepare=gate.install, **options) as server:
        client = client_of(server)
        other = begin(client, [line("base")])
        assert ended(client, other).status == "completed", "another batch need not wait"
        found = client.batches.retrieve(batch.id)
        assert found.status == "in_progress"
        assert found.errors is not None
        assert found.errors.data is not None
        (error,) = found.errors.data
        assert error.code == "adapter_not_loaded"
        assert error.message is not None
        assert error.message.startswith("the batch waits for the adapter first, which was loaded when the batch began")
        assert server.client.post("/v1/load_lora_adapter", json=load).status_code == 200
        done = ended(client, batch)
        assert (done.status, done.errors) == ("completed", None)
        texts = {
            each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"]
            for each in content(client, done.output_file_id)
        }
        assert texts["adapter"] != texts["base"]
