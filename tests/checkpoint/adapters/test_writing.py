"""`write_adapter` writes what `read_adapter` reads, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import CONFIG, factors, stored
from writer_kit import SHAPES

from pocketvlm.checkpoint.adapters import read_adapter, write_adapter
from pocketvlm.checkpoint.formats.safetensors import read_header
from pocketvlm.errors import CheckpointError, ConfigError, OptionError, PocketVLMError, TensorError
from pocketvlm.tensors import DenseTensor

Q = "model.language_model.layers.3.self_attn.q_proj"
OPTIONS = {"downsample_mode": "4x", "enable_thinking": False}
FILES = ["adapter_config.json", "adapter_model.safetensors", "pocketvlm.json"]


def write(path: Path, seed: int = 0, **others: Any) -> None:
    state = factors([Q], SHAPES, seed=seed)
    write_adapter(path, **{"updates_as_peft_state": state, "config": CONFIG, "options": OPTIONS, **others})


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_written_is_read(tmp_path: Path, dtype: str) -> None:
    state = {key: stored(values, dtype) for key, values in factors([Q], SHAPES).items()}
    given = {key: DenseTensor(key, "bf16", bits) for key, bits in state.items()} if dtype == "BF16" else state
    write(tmp_path / ".new", updates_as_peft_state=given, base={"name": "nano"})
    assert sorted(path.name for path in (tmp_path / ".new").iterdir()) == FILES
    entries = read_header(tmp_path / ".new" / "adapter_model.safetensors")
    assert {entry.dtype for entry in entries.values()} == {dtype}
    adapter = read_adapter(tmp_path / ".new", SHAPES)
    assert adapter.options == OPTIONS
    assert adapter.updates[f"{Q}.weight"].scale == 2.0
    assert json.loads((tmp_path / ".new" / "adapter_config.json").read_text()) == CONFIG
    assert json.loads((tmp_path / ".new" / "pocketvlm.json").read_text())["base"] == {"name": "nano"}
    assert sorted(tmp_path.iterdir()) == [tmp_path / ".new"]


def test_a_folder_that_exists_keeps_its_other_files(tmp_path: Path) -> None:
    write(tmp_path / "a")
    before = read_adapter(tmp_path / "a", SHAPES).digest()
    (tmp_path / "a" / "log.jsonl").write_text("{}")
    write(tmp_path / "a", seed=1)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [*FILES[:2], "log.jsonl", FILES[2]]
    assert read_adapter(tmp_path / "a", SHAPES).digest() != before


@pytest.mark.parametrize(
    ("others", "error", "words"),
    [
        ({"config": {**CONFIG, "use_dora": True}}, ConfigError, "DoRA"),
        ({"options": {"max_slice_nums": 0}}, ConfigError, "max_slice_nums=0"),
        ({"updates_as_peft_state": {"a.lora_E": np.zeros(3, np.float32)}}, OptionError, "a.lora_E"),
        ({"updates_as_peft_state": {"a.weight": np.zeros(3)}}, OptionError, "float64"),
        ({"updates_as_peft_state": {"a.weight": np.full(3, np.nan, np.float32)}}, TensorError, "NaN"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, others: dict[str, Any], error: type[PocketVLMError], words: str
) -> None:
    with pytest.raises(error, match=words):
        write(tmp_path / "a", **others)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketvlm.checkpoint.adapters import writer

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_all", full)
    with pytest.raises(CheckpointError, match=r"adapter_config.json: cannot be written: No space"):
        write(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no folder"):
        write(tmp_path / "none" / "a")
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="exists already"):
        write(tmp_path / "file")
