"""Random changes to valid requests of every route: an answer or an error of ours, never a 5xx, bounded memory."""

from __future__ import annotations

import random
import secrets
import time
from collections import Counter

import httpx
import pytest
from server.mutations import request
from server.test_soak import Process, process

SECONDS = 600.0
# Small budgets, so that what grows beyond them shows.
LIMITS = (
    *("--max-model-len", "400", "--default-max-tokens", "4", "--no-fetch-media", "--request-timeout", "10"),
    *("--memory", "48M", "--prefix-cache", "16M", "--vision-cache", "16M"),
)


def fuzz(server: Process, seed: int, count: int, seconds: float) -> Counter[int]:
    """How many answers had which status."""
    draw, seen = random.Random(seed), Counter[int]()
    until = time.monotonic() + seconds
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number in range(count):
            if time.monotonic() > until:
                break
            path, body = request(draw)
            response = client.post(path, content=body)
            where = f"seed {seed}, request {number}: {path} {body[:2000]!r} -> {response.text[:500]}"
            assert response.status_code < 500, where
            if response.status_code >= 400:
                error = response.json()["error"]
                assert (error if isinstance(error, str) else error["message"]).strip(), where
            else:
                assert "internal error" not in response.text, where
                assert "engine_error" not in response.text, where
            seen[response.status_code] += 1
    return seen


def test_some_random_requests() -> None:
    with process(*LIMITS) as server:
        seen = fuzz(server, 1, 400, 120)
    assert min(seen[200], seen[400]) > 50, seen


@pytest.mark.long
def test_random_requests_for_ten_minutes() -> None:
    seed = secrets.randbelow(1 << 32)
    with process(*LIMITS) as server:
        fuzz(server, seed, 2000, SECONDS)
        before = server.figures()
        seen = fuzz(server, seed + 1, 10**9, SECONDS)
        after = server.figures()
    print(f"seed {seed}: {dict(seen)}; before {before}, after {after}")
    assert after["memory"] < before["memory"] + (96 << 20)
    assert after["files"] <= before["files"] + 2
