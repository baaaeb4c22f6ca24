"""Models by name: the embedded one, directories, and names that mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_checkpoint

from pocketvlm.checkpoint.hub import embedded_directory, pull, resolve, resolve_adapter
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError, DownloadError, OptionError
from pocketvlm.options.load import named_adapters


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
        (
            "nanoo",
            r"model 'nanoo' is not known \(did you mean nano\?\): give \"nano\" .*, a directory, a GGUF file",
        ),
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


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a checkpoint and an adapter, and a hub that does not answer."""
    write_checkpoint(tmp_path / "models" / "small")
    (tmp_path / "models" / "notes").mkdir()
    (tmp_path / "adapters" / "run-7").mkdir(parents=True)
    (tmp_path / "adapters" / "run-7" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapters" / "run.txt").write_text("")
    monkeypatch.chdir(tmp_path)

    def fail(*args: object, **options: object) -> None:
        raise type("ConnectError", (Exception,), {"__module__": "httpx"})()

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("models/smal", "models/small"),
        ("model/small", "models/small"),
        ("./models/smal", "models/small"),
        ("models/note", None),
        ("nowhere/at-all", None),
        ("modles/smal/", "models/small"),
        ("models/small/inner/deep", None),
    ],
)
def test_a_mistyped_path_of_a_model_names_the_nearest(tree: Path, name: str, near: str | None) -> None:
    with pytest.raises(CheckpointError, match="there is no such directory or file") as error:
        resolve(name)
    message = str(error.value)
    assert ("did you mean" in message) == (near is not None)
    assert near is None or f"(did you mean {near}?)" in message
    if isinstance(error.value, DownloadError):
        assert "and as a hub id: https://" in message
        assert "cannot be reached" in message


@pytest.mark.parametrize("name", ["x" * 5000 + "/y", "~no-such-user/model"])
def test_names_that_are_no_paths_are_one_line(name: str) -> None:
    for look in (resolve, resolve_adapter):
        with pytest.raises(CheckpointError, match=r"is no path: .*: give a directory or a hub id") as error:
            look(name)
        assert len(str(error.value)) < 300
    with pytest.raises(OptionError, match="is no path"):
        named_adapters([name])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("adapters/run7", "adapters/run-7"),
        ("adapters/run-77", "adapters/run-7"),
        ("adpaters/run-7", "adapters/run-7"),
        ("adpaters/", "adapters"),
        ("adpaters", "adapters"),
        ("nowhere/at-all", None),
        ("", None),
        ("a\0b/c", None),
    ],
)
def test_a_mistyped_path_of_an_adapter_names_the_nearest(tree: Path, name: str, near: str | None) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder") as error:
        resolve_adapter(name)
    message = str(error.value)
    assert ("did you mean" in message) == (near is not None)
    assert near is None or f"(did you mean {near}?)" in message
    assert ("as a hub id" in message) == isinstance(error.value, DownloadError)


def test_models_and_adapters_in_each_others_place_are_named(tree: Path) -> None:
    with pytest.raises(CheckpointError, match="'nano': is a whole checkpoint, no adapter: give it as the model"):
        resolve_adapter("nano")
    with pytest.raises(CheckpointError, match="is a whole checkpoint"):
        resolve_adapter("models/small")
    pulled = pull("adapters/run-7")
    assert (pulled.adapter, pulled.base, pulled.files) == (True, None, 1)
    # Some tools save the base's config.json with an adapter.
    (tree / "adapters" / "run-7" / "config.json").write_text("{}")
    assert resolve_adapter("adapters/run-7") == Path("adapters/run-7")
    assert pull("adapters/run-7").adapter
    with pytest.raises(CheckpointError, match="is an adapter, no model"):
        open_checkpoint(tree / "adapters" / "run-7")
    assert not pull("models/small").adapter


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
