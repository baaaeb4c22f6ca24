"""GGUF files of hub repositories: which are downloaded, by tag and without, and without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_kit import Pair
from hub_server import StandInHub
from hub_user import User, read_files
from tiny_checkpoint import write_checkpoint

from pocketvlm.checkpoint.gguf.files import choose_names, has_tag
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError

NAME = "openbmb/MiniCPM-V-4.6-gguf"
Q4, Q8, VISION = "MiniCPM-V-4.6-Q4_K_M.gguf", "MiniCPM-V-4.6-Q8_0.gguf", "mmproj-MiniCPM-V-4.6-F16.gguf"
OTHERS = {"mmproj-MiniCPM-V-4.6-BF16.gguf": b"-", "README.md": b"-", "MiniCPM-V-4.6-IQ2_XXS.gguf": b"-"}

WITHOUT_VISION = """
from pocketvlm.checkpoint.hub import resolve
import json, sys
print(json.dumps({"path": str(resolve(json.loads(sys.argv[1])[0], mmproj=sys.executable))}))
"""
TOKENS = """
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
import json, sys
path = resolve(json.loads(sys.argv[1])[0], weights=False)
print(json.dumps({"path": str(path), "vocabulary": open_checkpoint(path, weights=False).model.text.vocab_size}))
"""


@pytest.fixture
def files(pair: Pair) -> dict[str, bytes]:
    text = pair.text.read_bytes()
    return {Q4: text, Q8: text + bytes(8), VISION: pair.mmproj.read_bytes(), **OTHERS}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    server = StandInHub()
    yield server
    server.close()


@pytest.fixture
def user(hub: StandInHub, tmp_path: Path) -> User:
    return User(hub, tmp_path / "home")


def test_one_file_and_its_vision_file_are_pulled(user: User, files: dict[str, bytes]) -> None:
    user.hub.repository(NAME, files)
    answer = user.pull(NAME, hook=True)
    assert user.hub.downloads() == [Q4, VISION]
    assert Path(answer["path"]).name == Q4
    assert "No files matched" not in answer["stderr"]
    assert (answer["files"], answer["bytes"]) == (2, len(files[Q4]) + len(files[VISION]))
    assert answer["calls"][-1] == [len(files[Q4]) + len(files[VISION])] * 2
    assert [path.name for path in open_checkpoint(Path(answer["path"])).tensor_files] == [Q4, VISION]
    other = user.pull(f"{NAME}:q8_0")
    assert user.hub.downloads() == [Q8]
    assert Path(other["path"]).name == Q8
    assert Path(other["path"]).parent == Path(answer["path"]).parent


def test_a_cached_file_needs_no_hub(user: User, files: dict[str, bytes]) -> None:
    user.hub.repository(NAME, files)
    first = user.pull(f"{NAME}:Q8_0")
    assert user.pull(f"{NAME}:Q8_0", HF_HUB_OFFLINE="1")["path"] == first["path"]
    assert "is not complete in the cache" in user.pull(NAME, HF_HUB_OFFLINE="1")["message"]
    plain = user.pull(NAME)
    user.hub.close()
    assert user.pull(NAME)["path"] == plain["path"]
    assert user.pull(NAME, HF_HUB_OFFLINE="1")["path"] == plain["path"]
    assert user.pull(f"{NAME}:Q5_K_M", HF_HUB_OFFLINE="1")["error"] == "DownloadError"


def test_a_tag_wins_over_safetensors_and_needs_no_small_files(
    user: User, files: dict[str, bytes], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "dense")
    user.hub.repository("org/both", {**read_files(tmp_path / "dense"), **files})
    assert "model.safetensors" in [Path(user.pull("org/both")["path"]).name, *user.hub.downloads()]
    assert Path(user.pull("org/both:Q4_K_M")["path"]).name == Q4
    assert user.hub.downloads() == [Q4, VISION]


def test_revisions_and_tags(user: User, files: dict[str, bytes]) -> None:
    repository = user.hub.repository(NAME, files)
    repository.commit({**files, Q4: files[Q8]}, "v1")
    path = Path(user.pull(f"{NAME}:Q4_K_M@v1")["path"])
    assert path.read_bytes() == files[Q8]
    assert user.pull(f"{NAME}:Q4_K_M", "v1")["path"] == str(path)


def test_a_vision_file_of_ones_own_is_not_downloaded_too(user: User, files: dict[str, bytes]) -> None:
    user.hub.repository(NAME, files)
    assert Path(user.pull(NAME, client=WITHOUT_VISION)["path"]).name == Q4
    assert user.hub.downloads() == [Q4]


def test_the_tokenizer_of_a_repository_is_in_its_file(user: User, files: dict[str, bytes]) -> None:
    user.hub.repository(NAME, files)
    assert user.pull(NAME, client=TOKENS)["vocabulary"] == 1280
    user.hub.repository("org/one", {"some-name.gguf": files[Q4], "config.json": b"{}"})
    assert Path(user.pull("org/one", client=TOKENS)["path"]).name == "some-name.gguf"


def test_text_models_without_a_vision_file(user: User, files: dict[str, bytes]) -> None:
    user.hub.repository(NAME, {Q4: files[Q4]})
    answer = user.pull(NAME)
    assert answer["files"] == 1
    assert open_checkpoint(Path(answer["path"])).model.vision is None
    assert user.pull(NAME, HF_HUB_OFFLINE="1")["path"] == answer["path"]


@pytest.mark.parametrize(
    ("names", "tag", "message"),
    [
        ([Q4, Q8], "Q5_K_M", r"org/x: no GGUF file of type Q5_K_M: name another type, .* \(files: .*Q8_0.gguf\)"),
        ([Q8, "x-Q6_K.gguf"], None, "no GGUF file of type Q4_K_M"),
        ([VISION], None, r"org/x: holds no GGUF file of a language model: use another repository"),
        (["model.safetensors"], "Q8_0", r"org/x: holds no GGUF file of a language model: leave out :Q8_0, or use"),
        (["x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf"], None, "part of a split GGUF file"),
    ],
)
def test_repositories_without_a_fitting_file(names: list[str], tag: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        choose_names(names, tag, "org/x")
    assert "\n" not in str(error.value)


def test_names() -> None:
    visions = ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf"]
    for first in range(4):
        best = ["mmproj-F16.gguf", "mmproj-BF16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf"][first:]
        assert choose_names([Q4, *(name for name in visions if name in best)], None, "x") == (Q4, best[0])
    assert choose_names([Q8, "sub/x-Q4_K_M.gguf", "notes.txt"], None, "x") == (Q8, None)
    assert has_tag("m.Q4_K_M.gguf", "q4_k_m")
    assert has_tag("Q4_K_M.GGUF", "Q4_K_M")
    assert has_tag("m-UD-Q4_K_M.gguf", "Q4_K_M")
    assert not has_tag("m-IQ4_K_M.gguf", "Q4_K_M")
    assert not has_tag("m-Q4_K_M-old.gguf", "Q4_K_M")
