"""Adapters of the hub are downloaded into the cache that all tools share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_files import factors, write_folder
from hub_server import StandInHub
from hub_user import User
from nano_adapters import write_adapter
from safetensors_kit import write_json
from writer_kit import SHAPES

from pocketvlm.checkpoint.adapters import read_adapter

NAME = "org/invoices"
CLIENT_OF_PULL = """
import json, sys
from pocketvlm.checkpoint.hub import pull
model, calls = json.loads(sys.argv[1])[0], []
pulled = pull(model, progress=lambda done, total: calls.append((done, total)))
print(json.dumps({"base": pulled.base, "adapter": pulled.adapter, "calls": calls}))
"""
Q = "model.language_model.layers.3.self_attn.q_proj"
CLIENT = """
import json, sys
from pocketvlm.checkpoint.hub import resolve_adapter
from pocketvlm.errors import PocketVLMError
adapter, revision, hook = json.loads(sys.argv[1])
calls = []
try:
    path = resolve_adapter(adapter, revision, (lambda done, total: calls.append((done, total))) if hook else None)
    answer = {"path": str(path), "calls": calls}
except PocketVLMError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer))
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    hub = StandInHub()
    yield User(hub, tmp_path / "home")
    hub.close()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("pickled", [False, True])
def test_the_files_of_an_adapter_and_no_others_are_downloaded(user: User, tmp_path: Path, pickled: bool) -> None:
    state = factors([Q], SHAPES)
    folder = write_folder(tmp_path / "a", state)
    digest = read_adapter(folder, SHAPES).digest()
    weights = "adapter_model.bin" if pickled else "adapter_model.safetensors"
    write_json(folder / "pocketvlm.json", {"version": 1, "options": {"downsample_mode": "4x"}})
    if pickled:
        (folder / "adapter_model.safetensors").unlink()
        torch.save({key: torch.from_numpy(values) for key, values in state.items()}, folder / weights)
    junk = {"optimizer.pt": b"-", "tokenizer.json": b"{}", "checkpoint-1/adapter_config.json": b"{}", "README.md": b"-"}
    repository = user.hub.repository(NAME, {**files(folder), **junk})
    answer = user.pull(NAME, client=CLIENT, hook=True)
    assert user.hub.downloads() == sorted(["adapter_config.json", "pocketvlm.json", weights])
    assert answer["calls"][-1] == [(folder / weights).stat().st_size] * 2
    found = read_adapter(answer["path"], SHAPES)
    assert found.digest() == digest
    assert found.options == {"downsample_mode": "4x"}
    assert user.pull(NAME)["path"] == answer["path"]  # `pull` finds out that it is an adapter
    again = user.pull(f"{NAME}@{next(iter(repository.commits))}", client=CLIENT, HF_HUB_OFFLINE="1")
    assert again["path"] == answer["path"]
    user.hub.repository("org/other", files(folder))
    alone = user.pull("org/other", client=CLIENT, HF_HUB_OFFLINE="1")
    assert "run `pocketvlm pull org/other` with a network" in alone["message"]


def test_a_repository_without_an_adapter_says_so(user: User) -> None:
    user.hub.repository(NAME, {"config.json": b"{}", "model.safetensors": b"-"})
    answer = user.pull(NAME, client=CLIENT)
    assert answer["error"] == "DownloadError"
    assert "has no adapter_config.json" in answer["message"]
    user.hub.repository("org/half", {"adapter_config.json": b"{}"})
    answer = user.pull("org/half", client=CLIENT)
    assert answer["error"] == "DownloadError"
    assert "adapter_model.safetensors" in answer["message"]


ANSWER = """
import json, sys
import pocketvlm
name = json.loads(sys.argv[1])[0]
with pocketvlm.load("nano", adapters=[name]) as model:
    print(json.dumps({"names": list(model.adapters), "text": model.ask("hello", adapter="stars", max_tokens=8).text}))
"""


def test_an_adapter_that_was_pulled_answers_without_a_network(user: User, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "stars", 1, base_model_name_or_path="org/base")
    user.hub.repository("org/stars", {**files(folder), "README.md": b"-", "config.json": b"{}"})
    pulled = user.pull("org/stars", hook=True, client=CLIENT_OF_PULL)
    assert pulled["base"] == "org/base"
    assert pulled["calls"][-1] == [(folder / "adapter_model.safetensors").stat().st_size] * 2
    user.hub.close()
    there = user.pull("org/stars", client=ANSWER, HF_HUB_OFFLINE="1")
    assert there["names"] == ["stars"]
    assert there["text"] == user.pull(str(folder), client=ANSWER)["text"]
