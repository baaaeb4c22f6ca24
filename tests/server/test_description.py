"""schemathesis on the server's own description: whatever it says may be sent never ends in a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from server.kit import Running, running

OPERATIONS = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/responses"), ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"), ("POST", "/api/chat"), ("POST", "/api/generate"), ("POST", "/api/show"),
    ("POST", "/api/pull"),
    ("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/v1/files"), ("GET", "/v1/files/{file_id}"),
    ("DELETE", "/v1/files/{file_id}"), ("GET", "/v1/models/{name}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Iterator[Running]:
    """Short answers, nothing fetched: what is sent is random."""
    with running(default_max_tokens=4, max_model_len=256, fetch_media=False, request_timeout=5.0) as found:
        yield found


def fuzz(target: Running, method: str, path: str, examples: int) -> None:
    schema: Any = schemathesis.openapi.from_url(f"{target.url}/openapi.json")
    operation = schema[path][method]
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    seen = []

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        case=hypothesis.strategies.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])
    )
    def one(case: Any) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "nano"  # beyond the first check
        response = case.call(base_url=target.url, timeout=20)
        seen.append(response.status_code)
        assert response.status_code < 500 or response.status_code == 503, response.text

    one()
    assert seen


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nothing_that_is_sent_breaks_the_server(target: Running, method: str, path: str) -> None:
    fuzz(target, method, path, 25)


@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_much_that_is_sent_breaks_nothing(target: Running, method: str, path: str) -> None:
    fuzz(target, method, path, 1000)
