"""Who may come in: keys, host names, origins; and settings that would let in too many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server.kit import EXAMPLES, Running, running

from pocketvlm.errors import OptionError
from pocketvlm.server.settings import Settings, read_file, read_keys

KEYS = ("first-key-1", "second-key-2")


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(api_keys=KEYS, allowed_origins=("https://good.example",), allowed_hosts=("Name.example",)) as found:
        yield found


PATHS = [
    "/v1/models", "/v1/models/nano", "/version", "/metrics", "/docs", "/openapi.json", "/v1/files", "/api/tags",
    "/api/version", "/nothing", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/responses", "/v1/responses/input_tokens", "/tokenize", "/detokenize", "/api/chat", "/api/generate",
    "/api/show", "/api/ps", "/api/pull", "/limits", "/v1/files/fetch", "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter", "/v1/batches", "/v1/batches/{batch_id}", "/v1/batches/{batch_id}/cancel",
    "/v1/messages/batches", "/v1/messages/batches/{batch_id}", "/v1/messages/batches/{batch_id}/cancel",
    "/v1/messages/batches/{batch_id}/results",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_every_route_but_health_needs_a_key(locked: Running, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert locked.client.request(method, path).status_code == 401
        wrong = locked.client.request(method, path, headers={"Authorization": "Bearer wrong-key"})
        assert wrong.status_code == 401
    assert locked.client.get("/health").json()["status"] == "healthy"
    assert locked.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEYS[0]}"}, {"Authorization": f"bearer {KEYS[1]}"}, {"x-api-key": KEYS[0]}]
)
def test_keys_open(locked: Running, headers: dict[str, str]) -> None:
    assert locked.client.get("/v1/models", headers=headers).status_code == 200


def test_all_routes_are_in_the_list_of_paths(locked: Running) -> None:
    described = locked.server.app.openapi()["paths"]
    known = {path.replace("nano", "{name}") for path in PATHS}
    assert {path for path in described if not path.startswith("/health") and "{file_id}" not in path} <= known


def test_files_belong_to_their_key(locked: Running) -> None:
    first, second = ({"x-api-key": key} for key in KEYS)
    upload = {"file": ("a.png", (EXAMPLES / "dog.png").read_bytes())}
    number = locked.client.post("/v1/files", files=upload, headers=first).json()["id"]
    assert locked.client.get(f"/v1/files/{number}", headers=first).status_code == 200
    assert locked.client.get(f"/v1/files/{number}", headers=second).status_code == 404
    assert locked.client.delete(f"/v1/files/{number}", headers=second).status_code == 404
    assert locked.client.get("/v1/files", headers=second).json()["data"] == []
    part = {"type": "image_url", "image_url": {"file_id": number}}
    body = {"model": "nano", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
    assert locked.client.post("/v1/chat/completions", json=body, headers=second).status_code == 404
    assert locked.client.post("/v1/chat/completions", json=body, headers=first).status_code == 200


def test_log_lines_name_the_key_by_number_only(locked: Running) -> None:
    answer = locked.client.get("/version", headers={"x-api-key": KEYS[1]})
    assert locked.line(answer.headers["x-request-id"])["key"] == 2
    assert not any(key in locked.log.getvalue() for key in KEYS)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "evil"])
def test_a_page_that_borrows_our_address_is_refused(server: Running, host: str) -> None:
    assert server.client.get("/version", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:80", "192.168.0.3", "a.localhost"])
def test_our_own_names_are_served(server: Running, host: str) -> None:
    assert server.client.get("/version", headers={"Host": host}).status_code == 200


def test_allowed_names_and_origins(locked: Running) -> None:
    key = {"x-api-key": KEYS[0]}
    assert locked.client.get("/version", headers={**key, "Host": "name.example:8000"}).status_code == 200
    good = locked.client.get("/version", headers={**key, "Origin": "https://good.example"})
    assert good.headers["access-control-allow-origin"] == "https://good.example"
    ask = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    assert locked.client.options("/v1/chat/completions", headers=ask).status_code == 200
    for origin in ("https://evil.example", "null", "https://good.example.evil"):
        bad = locked.client.get("/version", headers={**key, "Origin": origin})
        assert bad.status_code == 403
        assert "access-control-allow-origin" not in bad.headers


def test_cors_is_off_without_origins(server: Running) -> None:
    refused = server.client.post("/v1/chat/completions", headers={"Origin": "https://a.example"}, json={})
    assert refused.status_code == 403
    same = server.client.get("/version", headers={"Origin": server.url})
    assert same.status_code == 200
    assert not any(name.startswith("access-control") for name in same.headers)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "0.0.0.0"}, "--insecure"),
        ({"host": "::"}, "--insecure"),
        ({"host": "example.com"}, "--insecure"),
        ({"api_keys": ("short",)}, "8 printable"),
        ({"max_seqs": 0}, "--max-seqs=0"),
        ({"port": 70000}, "--port=70000"),
        ({"allowed_media_path": ("/nowhere/at/all",)}, "no such directory"),
    ],
)
def test_unsafe_or_impossible_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Settings(**settings)


def test_safe_settings() -> None:
    for settings in ({"host": "0.0.0.0", "insecure": True}, {"host": "0.0.0.0", "api_keys": KEYS}, {"host": "::1"}):
        Settings(**settings)


def test_keys_and_settings_from_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst-key-1\n\n second-key-2 \n")
    assert read_keys(path, {"POCKETVLM_API_KEY": "third-key-3, first-key-1"}) == (*KEYS, "third-key-3")
    assert read_keys(None, {}) == ()
    path.write_text("# nothing\n")
    with pytest.raises(OptionError, match="no key"):
        read_keys(path, {})
    path.write_text("max-seqs: 3\nhost: ::1\n")
    assert read_file(path, ("max_seqs", "host")) == {"max_seqs": 3, "host": "::1"}
    for text, says in (("max-seq: 3", "did you mean 'max-seqs'"), ("[1]", "mapping"), ("a: [", "not valid YAML")):
        path.write_text(text)
        with pytest.raises(OptionError, match=says):
            read_file(path, ("max_seqs",))
