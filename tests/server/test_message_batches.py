"""Anthropic's batches over HTTP, through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from server.batch_kit import FIRST, MORE, Gate
from server.kit import Running, picture, running, until

GATED = {"type": "image", "source": {"type": "url", "url": "https://gate.example/a.png"}}


def request(custom_id: str, content: Any = "hello", **fields: Any) -> Any:
    params = {"model": "nano", "max_tokens": 3, "messages": [{"role": "user", "content": content}], **fields}
    return {"custom_id": custom_id, "params": params}


def client_of(server: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def ended(client: anthropic.Anthropic, batch: Any) -> Any:
    def check() -> Any:
        found = client.messages.batches.retrieve(batch.id)
        return found if found.processing_status == "ended" else None

    return until(check, 60)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(data_dir=str(tmp_path_factory.mktemp("data"))) as found:
        yield found


def test_a_batch_of_messages(stored: Running) -> None:
    client = client_of(stored)
    source = {"type": "base64", "media_type": "image/png", "data": picture().partition(",")[2]}
    image = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    requests = [request("text"), request("image", image), request("wrong", model="other"), request("bad", stop=1)]
    batch = client.messages.batches.create(requests=requests)
    assert (batch.type, batch.request_counts.processing) == ("message_batch", 4)
    assert batch.results_url is None
    done = ended(client, batch)
    assert (done.request_counts.succeeded, done.request_counts.errored, done.request_counts.processing) == (2, 2, 0)
    assert done.ended_at is not None
    found = {each.custom_id: each.result for each in client.messages.batches.results(batch.id)}
    assert list(found) == ["text", "image", "wrong", "bad"]
    assert {name: each.type for name, each in found.items()} == {
        "text": "succeeded", "image": "succeeded", "wrong": "errored", "bad": "errored",
    }  # fmt: skip
    live = client.messages.create(**request("x")["params"])
    assert found["text"].type == "succeeded"
    assert found["text"].message.content[0].type == live.content[0].type == "text"
    assert found["text"].message.usage.output_tokens == 3
    assert found["wrong"].type == "errored"
    assert found["wrong"].error.error.type == "not_found_error"
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError, match="no batch with the id"):
        client.messages.batches.retrieve(batch.id)


def test_pages(stored: Running) -> None:
    client = client_of(stored)
    made = [client.messages.batches.create(requests=[request("a")]).id for _ in range(3)]
    assert [each.id for each in client.messages.batches.list(limit=2)][:3] == made[::-1]
    assert [each.id for each in client.messages.batches.list(after_id=made[1]).data] == [made[0]]
    assert [each.id for each in client.messages.batches.list(before_id=made[0], limit=1).data] == [made[1]]
    for batch_id in made:
        ended(client, client.messages.batches.retrieve(batch_id))
        client.messages.batches.delete(batch_id)


def test_cancelling_leaves_a_result_for_each(tmp_path: Path) -> None:
    gate = Gate()
    with running(prepare=gate.install, data_dir=str(tmp_path)) as server:
        client = client_of(server)
        requests = [request("done", FIRST), *(request(f"gated-{number}", [GATED]) for number in range(MORE))]
        batch = client.messages.batches.create(requests=requests)
        until(lambda: client.messages.batches.retrieve(batch.id).request_counts.succeeded == 1)
        assert gate.reached.wait(60)
        with pytest.raises(anthropic.BadRequestError, match="the batch has not ended"):
            client.messages.batches.delete(batch.id)
        assert server.client.get(f"/v1/messages/batches/{batch.id}/results").status_code == 400
        found = client.messages.batches.cancel(batch.id)
        assert found.processing_status == "canceling"
        assert found.cancel_initiated_at is not None
        gate.open.set()
        counts = ended(client, batch).request_counts
        assert counts.canceled > 0
        assert counts.canceled + counts.succeeded + counts.errored == 1 + MORE
        types = [each.result.type for each in client.messages.batches.results(batch.id)]
        assert types.count("canceled") == counts.canceled
        assert len(types) == 1 + MORE
        assert client.messages.batches.cancel(batch.id).processing_status == "ended"


def test_what_cannot_begin(stored: Running, server: Running) -> None:
    client = client_of(stored)
    with pytest.raises(anthropic.BadRequestError, match=r"requests\[1\].custom_id: an earlier request has 'a' too"):
        client.messages.batches.create(requests=[request("a"), request("a")])
    with pytest.raises(anthropic.BadRequestError, match="requests"):
        client.messages.batches.create(requests=[])
    with pytest.raises(anthropic.APIStatusError, match="start the server with --data-dir DIR") as refused:
        client_of(server).messages.batches.create(requests=[request("a")])
    assert refused.value.status_code == 501
