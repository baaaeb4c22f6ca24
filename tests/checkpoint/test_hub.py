"""Models by name: the embedded one, directories, and names that mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_checkpoint

from pocketvlm.checkpoint.hub import embedded_directory, pull, resolve
from pocketvlm.errors import CheckpointError, DownloadError, OptionError


def test_the_embedded_model_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("nano") == embedded_directory()
    write_checkpoint(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("org/name", "./org/name", Path("org/name"), tmp_path / "org" / "name", "~/org/name"):
        assert resolve(name).samefile(tmp_path / "org" / "name")
    pulled = pull("org/name")
    assert pulled.files == len(list((tmp_path / "org" / "name").iterdir()))
    assert pulled.nbytes == sum(path.stat().st_size for path in (tmp_path / "org" / "name").iterdir())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nanoo", r"model 'nanoo' is not known: give \"nano\" .*, a directory, a GGUF file, or a hub id"),
        ("", "model '' is not known"),
        ("./missing", "there is no such directory"),
        ("/usr:Q4_K_M", "only names of the hub take a type such as 'Q4_K_M', and /usr is on this machine: give the"),
        ("/missing/model", "there is no such directory"),
        ("~/missing", "there is no such directory"),
        (Path("org/name"), "there is no such directory"),
        ("a/b/c", "hub ids have one slash"),
        ("org/", "there is no such directory"),
        ("C:\\models\\x", "there is no such directory"),
        ("https://huggingface.co/openbmb/MiniCPM-V-4.6", "links are not taken"),
        (__file__, "is a file, but no GGUF file: give the directory"),
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
