"""Models by name: the embedded one, directories, and hub ids against a stand-in hub in a process of their own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import StandInHub
from huggingface_hub import errors
from tiny_checkpoint import SHAPES, encode, random_bits, write_checkpoint

from pocketvlm.checkpoint.hub import embedded_directory, pull, resolve
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.errors import CheckpointError, DownloadError, OptionError

# huggingface_hub reads its environment when it is imported, so each run is a process; it prints one JSON line.
CLIENT = """
import json, sys
from pathlib import Path
from pocketvlm.checkpoint.hub import pull
from pocketvlm.errors import PocketVLMError
model, revision, hook = json.loads(sys.argv[1])
calls = []
try:
    pulled = pull(model, revision, (lambda done, total: calls.append((done, total))) if hook else None)
    answer = {"path": str(pulled.path), "files": pulled.files, "bytes": pulled.nbytes, "calls": calls}
except PocketVLMError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer))
"""
INSTRUCT, THINKING = "openbmb/MiniCPM-V-4.6", "openbmb/MiniCPM-V-4.6-Thinking"
WANTED = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@dataclass
class User:
    """Someone with an own cache who pulls models."""

    hub: StandInHub
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def pull(self, model: str, revision: str | None = None, hook: bool = False, **environment: str) -> dict[str, Any]:
        """Run the client; returns its answer with stderr added."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        source = str(Path(__file__).parents[2] / "src")
        settings = {
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]),
            "NO_PROXY": "*",
        }
        command = [sys.executable, "-c", CLIENT, json.dumps([model, revision, hook])]
        done = subprocess.run(
            command,
            env={**inherited, **settings, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return {**json.loads(done.stdout), "stderr": done.stderr}


def read_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("instruct")
    write_checkpoint(directory, seed=1)
    return read_files(directory)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    server = StandInHub()
    yield server
    server.close()


@pytest.fixture
def user(hub: StandInHub, tmp_path: Path) -> User:
    return User(hub, tmp_path / "home")


def test_both_checkpoints_are_pulled_and_read(user: User, instruct: dict[str, bytes], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "thinking", seed=2)
    thinking = read_files(tmp_path / "thinking")
    junk = {"README.md": b"-", "pytorch_model.bin": b"-", "onnx/model.safetensors": b"-", "q4.gguf": b"-"}
    user.hub.repository(INSTRUCT, {**instruct, **junk, ".gitattributes": b"-"})
    user.hub.repository(THINKING, thinking)
    for name, seed, files in ((INSTRUCT, 1, instruct), (THINKING, 2, thinking)):
        answer = user.pull(name)
        assert user.hub.downloads() == WANTED
        assert answer["files"] == len(WANTED)
        assert answer["bytes"] == sum(map(len, files.values()))
        assert Path(answer["path"]).is_relative_to(user.home)
        tensors = read_checkpoint(Path(answer["path"])).tensors(SHAPES)
        assert all(np.array_equal(tensors[key].data, bits) for key, bits in random_bits(seed).items())


def test_a_cached_model_needs_no_hub(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    first = user.pull(INSTRUCT)
    user.hub.downloads()
    assert user.pull(INSTRUCT)["path"] == first["path"]
    assert user.hub.downloads() == []
    assert user.pull(INSTRUCT, HF_HUB_OFFLINE="1")["path"] == first["path"]
    assert user.hub.requests == []
    user.hub.failing = 503
    assert user.pull(INSTRUCT)["path"] == first["path"]
    user.hub.close()
    assert user.pull(INSTRUCT)["path"] == first["path"]


def test_revisions(user: User, instruct: dict[str, bytes]) -> None:
    repository = user.hub.repository(INSTRUCT, instruct)
    old = repository.commit({**instruct, "chat_template.jinja": b"old"}, "v1")
    paths = [
        user.pull(INSTRUCT, "v1")["path"],
        user.pull(f"{INSTRUCT}@v1")["path"],
        user.pull(f"{INSTRUCT}@{old}", old)["path"],
    ]
    assert len(set(paths)) == 1
    assert read_checkpoint(Path(paths[0])).chat_template == "old"
    assert read_checkpoint(Path(user.pull(INSTRUCT)["path"])).chat_template == "from chat_template.jinja"
    answer = user.pull(f"{INSTRUCT}@v9")
    assert answer["error"] == "DownloadError"
    assert answer["message"].startswith(f"{INSTRUCT} has no revision 'v9': see {user.hub.endpoint}/{INSTRUCT}")


def test_a_dropped_connection_is_resumed_where_it_broke(user: User, instruct: dict[str, bytes]) -> None:
    # The client writes in pieces of 10 MiB, and goes on after the last whole one.
    padding = np.random.default_rng(0).integers(0, 1 << 16, 12 << 20, np.uint16)
    weights = encode({"mtp.padding": ("BF16", padding)})
    user.hub.repository(INSTRUCT, {**instruct, "model.safetensors": weights})
    user.hub.break_after = 15 << 20
    answer = user.pull(INSTRUCT)
    ranges = [(path.rsplit("/", 1)[1], asked) for _, path, asked in user.hub.requests if asked]
    assert ranges == [("model.safetensors", f"bytes={10 << 20}-")]
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == weights


def test_a_failed_download_keeps_the_finished_files(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.hub.failing_file = "model.safetensors"
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert "(HTTP 500): wait and try again" in answer["message"]
    user.hub.failing_file = None
    user.hub.requests.clear()
    finished = {path.name for path in user.home.glob("hub/models--*/snapshots/*/*")}
    offline = user.pull(INSTRUCT, HF_HUB_OFFLINE="1")
    assert "is not complete in the cache" in offline["message"]
    assert Path(user.pull(INSTRUCT)["path"], "model.safetensors").read_bytes() == instruct["model.safetensors"]
    assert user.hub.downloads() == sorted(set(WANTED) - finished)


def test_progress_is_reported_in_bytes_and_the_bar_is_silent(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    answer = user.pull(INSTRUCT, hook=True)
    size = sum(map(len, instruct.values()))
    assert answer["calls"][-1] == [size, size]
    assert [done for done, _ in answer["calls"]] == sorted(done for done, _ in answer["calls"])
    assert answer["stderr"] == ""


def test_the_token_is_sent(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.pull(INSTRUCT, HF_TOKEN="hf_secret")
    assert user.hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("GatedRepo", "is gated: accept its terms at {endpoint}/{model}, then set HF_TOKEN"),
        ("RepoNotFound", "is not on {endpoint}, or is private: check the spelling, or set HF_TOKEN"),
    ],
)
def test_refused_repositories(user: User, instruct: dict[str, bytes], gate: str, message: str) -> None:
    user.hub.repository(INSTRUCT, instruct).gate = gate
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert message.format(endpoint=user.hub.endpoint, model=INSTRUCT) in answer["message"]
    assert "\n" not in answer["message"]


def test_a_failing_or_absent_hub(user: User) -> None:
    offline = user.pull(INSTRUCT, HF_HUB_OFFLINE="1")
    assert offline["error"] == "DownloadError"
    assert "HF_HUB_OFFLINE is set: run `pocketvlm pull openbmb/MiniCPM-V-4.6` with a network" in offline["message"]
    assert str(user.home) in offline["message"]
    user.hub.failing = 500
    assert user.pull(INSTRUCT)["error"] == "DownloadError"
    user.hub.close()
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert answer["message"].startswith(
        f"{user.hub.endpoint} cannot be reached and {INSTRUCT} is not complete in the cache"
    )
    assert "HF_ENDPOINT" in answer["message"]


def test_a_cache_that_cannot_be_written(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.home.write_text("a file where the cache should be")
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert INSTRUCT in answer["message"]


def test_the_embedded_model_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("nano") == embedded_directory()
    write_checkpoint(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("org/name", "./org/name", Path("org/name"), tmp_path / "org" / "name", "~/org/name"):
        assert resolve(name).samefile(tmp_path / "org" / "name")
    pulled = pull("org/name")
    assert pulled.files == len(WANTED)
    assert pulled.nbytes == sum(path.stat().st_size for path in (tmp_path / "org" / "name").iterdir())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nanoo", r"model 'nanoo' is not known: give \"nano\" .*, a directory, or a hub id"),
        ("", "model '' is not known"),
        ("./missing", "there is no such directory"),
        ("/missing/model", "there is no such directory"),
        ("~/missing", "there is no such directory"),
        (Path("org/name"), "there is no such directory"),
        ("a/b/c", "hub ids have one slash"),
        ("org/", "there is no such directory"),
        ("C:\\models\\x", "there is no such directory"),
        ("https://huggingface.co/openbmb/MiniCPM-V-4.6", "links are not taken"),
        (__file__, "is a file: give the directory"),
        ("org/name@", "not known"),
        ("org name/x", "not known"),
    ],
)
def test_names_that_mean_nothing(model: str | Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        resolve(model)
    assert not isinstance(error.value, DownloadError)


def test_revisions_that_mean_nothing(tmp_path: Path) -> None:
    for model in ("nano", tmp_path):
        with pytest.raises(OptionError, match="only models of the hub have revisions"):
            resolve(model, "main")
    with pytest.raises(OptionError, match="revision='v2' contradicts"):
        resolve("org/name@v1", "v2")


def test_the_download_client_is_imported_only_when_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pocketvlm.checkpoint.hub import resolve; resolve(sys.argv[1]);"
        "print([name for name in ('huggingface_hub', 'numpy', 'tqdm') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full at .*: make room, or set HF_HOME"),
        (OSError(errno.EACCES, "Permission denied"), "cannot write to .*: allow it, or set HF_HOME"),
        (
            OSError("Consistency check failed: 5 of 6\nmore"),
            r"the download failed \(Consistency check failed: 5 of 6\): run",
        ),
        (type("ReadTimeout", (Exception,), {"__module__": "httpx"})(), "cannot be reached .*: check the network"),
        (errors.HFValidationError("bad"), "'org/name' is not a valid hub id: give org/name"),
    ],
)
def test_other_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str) -> None:
    def fail(*args: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(DownloadError, match=message) as error:
        resolve("org/name")
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is failure


def test_a_bug_in_the_client_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(KeyError):
        resolve("org/name")
