"""A server of a GGUF model without its vision file: it says so, answers text, and refuses images."""

from __future__ import annotations

import shutil
from pathlib import Path

from gguf_kit import write_pair
from server.kit import image, running


def test_a_language_model_alone(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "model", lambda kind, rows: rows, ["F16"])
    text = tmp_path / "tiny.gguf"
    shutil.copy(pair.text, text)
    with running(loading={"model": text}, served_model_name=("tiny",)) as server:
        listed = server.client.get("/v1/models/tiny").json()
        assert "vision" not in listed["capabilities"]
        assert listed["modalities"]["input"] == ["text"]
        shown = server.client.post("/api/show", json={"model": "tiny"}).json()
        assert "vision" not in shown["capabilities"]
        assert (shown["details"]["format"], shown["details"]["families"]) == ("gguf", ["minicpmv"])
        assert not any(key.startswith("vision") for key in shown["model_info"])
        answer = server.chat("Hello", model="tiny", max_tokens=2)
        assert answer.json()["usage"]["completion_tokens"] > 0
        refused = server.chat([image()], model="tiny", max_tokens=2)
        assert refused.status_code == 400
        assert "without a vision tower: there is no vision file beside" in refused.json()["error"]["message"]
    with running(loading={"model": text, "mmproj": pair.mmproj}, served_model_name=("tiny",)) as server:
        assert "vision" in server.client.get("/v1/models/tiny").json()["capabilities"]
        assert server.chat([image()], model="tiny", max_tokens=2).status_code == 200
