"""Hub ids against a stand-in hub: both checkpoints, cache, revisions, resuming, and every way to fail."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import StandInHub
from hub_user import SMALL_FILES_ONLY, User, read_files
from huggingface_hub import errors
from safetensors_kit import encode
from tiny_checkpoint import SHAPES, random_bits, write_checkpoint, write_shards

from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.errors import CheckpointError, DownloadError

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


@pytest.mark.parametrize("name", ["openbmb/MiniCPM-V-4.6-AWQ", "mlx-community/MiniCPM-V-4.6-4bit"])
def test_quantized_checkpoints_bring_the_files_of_their_settings(
    user: User, instruct: dict[str, bytes], name: str
) -> None:
    settings = {"quant_config.json": b'{"w_bit": 4, "zero_point": true}'}
    others = {"README.md": b"-", "tokenizer.model": b"-", "optimizer.pt": b"-", "merges.txt": b"-"}
    user.hub.repository(name, {**instruct, **settings, **others})
    user.pull(name, client=SMALL_FILES_ONLY)
    assert user.hub.downloads() == sorted({*WANTED, *settings} - {"model.safetensors"})


def test_small_files_alone(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    answer = user.pull(INSTRUCT, client=SMALL_FILES_ONLY)
    assert user.hub.downloads() == [name for name in WANTED if name != "model.safetensors"]
    assert answer["tensors"] == 0
    assert answer["vocabulary"] > 0
    assert user.pull(INSTRUCT)["path"] == answer["path"]
    assert user.hub.downloads() == ["model.safetensors"]


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


@pytest.fixture(scope="module")
def large() -> bytes:
    """Weights longer than the pieces of 10 MiB in which the client writes."""
    padding = np.random.default_rng(0).integers(0, 1 << 16, 12 << 20, np.uint16)
    return encode({"mtp.padding": ("BF16", padding)})


def ranges(hub: StandInHub) -> list[str]:
    return [asked for _, path, asked in hub.requests if asked and path.endswith("model.safetensors")]


def test_a_dropped_connection_is_resumed_where_it_broke(user: User, instruct: dict[str, bytes], large: bytes) -> None:
    user.hub.repository(INSTRUCT, {**instruct, "model.safetensors": large})
    user.hub.break_after = 15 << 20
    answer = user.pull(INSTRUCT, hook=True)
    assert ranges(user.hub) == [f"bytes={10 << 20}-"]
    assert answer["calls"][-1] == [len(large), len(large)]
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == large


def test_a_killed_download_is_resumed_by_the_next(user: User, instruct: dict[str, bytes], large: bytes) -> None:
    user.hub.repository(INSTRUCT, {**instruct, "model.safetensors": large})
    user.hub.break_after, user.hub.stall = 15 << 20, True
    process = user.start(INSTRUCT)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size >= 10 << 20 for path in user.home.glob("hub/models--*/blobs/*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    answer = user.pull(INSTRUCT, hook=True)
    assert ranges(user.hub) == [f"bytes={10 << 20}-"]
    assert answer["calls"][0] == [10 << 20, len(large)]
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == large
    assert not list(user.home.glob("**/*.partial"))


def test_two_processes_download_once(user: User, instruct: dict[str, bytes], large: bytes) -> None:
    user.hub.repository(INSTRUCT, {**instruct, "model.safetensors": large})
    processes = [user.start(INSTRUCT), user.start(INSTRUCT)]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert answers[0]["path"] == answers[1]["path"]
    assert user.hub.downloads().count("model.safetensors") == 1
    assert (Path(answers[0]["path"]) / "model.safetensors").read_bytes() == large
    assert not list(user.home.glob("**/*.partial"))


def test_a_file_that_arrives_damaged_is_removed(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.hub.damaged = True
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert "model.safetensors: the file arrived damaged" in answer["message"]
    user.hub.damaged = False
    assert Path(user.pull(INSTRUCT)["path"], "model.safetensors").read_bytes() == instruct["model.safetensors"]


def test_a_failed_download_keeps_the_finished_files(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.hub.failing_file = "model.safetensors"
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert "(HTTP 500): wait and try again" in answer["message"]
    user.hub.failing_file = None
    offline = user.pull(INSTRUCT, HF_HUB_OFFLINE="1")
    assert "is not complete in the cache" in offline["message"]
    user.hub.requests.clear()
    assert Path(user.pull(INSTRUCT)["path"], "model.safetensors").read_bytes() == instruct["model.safetensors"]
    assert user.hub.downloads() == ["model.safetensors"]


def test_shards_are_pulled_by_their_index(user: User, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "sharded", seed=4)
    write_shards(tmp_path / "sharded")
    files = read_files(tmp_path / "sharded")
    unlisted = {"model-00009-of-00009.safetensors": b"-", "consolidated.safetensors": b"-"}
    user.hub.repository("org/sharded", {**files, **unlisted})
    answer = user.pull("org/sharded", hook=True)
    assert user.hub.downloads() == sorted(files)
    assert answer["calls"][-1] == [sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))] * 2
    tensors = read_checkpoint(Path(answer["path"])).tensors(SHAPES)
    assert all(np.array_equal(tensors[key].data, bits) for key, bits in random_bits(4).items())


def test_a_repository_without_weights_says_so_when_it_is_read(user: User, instruct: dict[str, bytes]) -> None:
    files = {name: data for name, data in instruct.items() if name != "model.safetensors"}
    user.hub.repository("org/empty", {**files, "q4.onnx": b"-"})
    directory = Path(user.pull("org/empty")["path"])
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        read_checkpoint(directory)


def test_progress_is_reported_in_bytes_of_the_weights(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    answer = user.pull(INSTRUCT, hook=True)
    size = len(instruct["model.safetensors"])
    assert answer["calls"][-1] == [size, size]
    assert [done for done, _ in answer["calls"]] == sorted(done for done, _ in answer["calls"])
    assert answer["stderr"] == ""


def test_the_token_is_sent(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.pull(INSTRUCT, HF_TOKEN="hf_secret")
    assert user.hub.tokens == {"Bearer hf_secret"}


def test_the_token_does_not_follow_to_the_storage(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.hub.redirect = True
    answer = user.pull(INSTRUCT, HF_TOKEN="hf_secret")
    assert Path(answer["path"], "model.safetensors").read_bytes() == instruct["model.safetensors"]
    assert user.hub.storage_tokens == {None}


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
        f"model '{INSTRUCT}': there is no such directory or file, and as a hub id: {user.hub.endpoint} cannot be "
        f"reached and {INSTRUCT} is not complete in the cache"
    )
    assert "HF_ENDPOINT" in answer["message"]


def test_a_cache_that_cannot_be_written(user: User, instruct: dict[str, bytes]) -> None:
    user.hub.repository(INSTRUCT, instruct)
    user.home.write_text("a file where the cache should be")
    answer = user.pull(INSTRUCT)
    assert answer["error"] == "DownloadError"
    assert INSTRUCT in answer["message"]


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
