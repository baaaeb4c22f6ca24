"""adapter_model.bin is read without PyTorch, exactly, and never runs what a pickle asks for."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_files import factors, write_folder
from writer_kit import SHAPES

from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.adapters.pickled import read_pickled
from pocketvlm.errors import CheckpointError

Q = "model.language_model.layers.3.self_attn.q_proj"


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_have_the_values_that_torch_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(60, dtype=dtype).reshape(5, 12)
    content = {
        "whole": whole,
        "view": whole[1:3, ::2],
        "turned": whole.T,
        "empty": torch.empty(0, 4, dtype=dtype),
        "scalar": torch.tensor(3.5, dtype=dtype),
        "parameter": torch.nn.Parameter(whole[0]),
    }
    found = read_pickled(saved(tmp_path / "a.bin", content))
    assert list(found) == list(content)
    for name, tensor in content.items():
        assert found[name].shape == tuple(tensor.shape)
        assert np.array_equal(found[name].float32(), tensor.detach().float().numpy())


def test_a_state_dict_of_a_module_is_read(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    found = read_pickled(saved(tmp_path / "a.bin", module.state_dict()))
    assert np.array_equal(found["weight"].float32(), module.weight.detach().numpy())


def test_an_adapter_of_either_file_is_the_same(tmp_path: Path) -> None:
    state = factors([Q], SHAPES)
    first = read_adapter(write_folder(tmp_path / "a", state), SHAPES)
    folder = write_folder(tmp_path / "b", state)
    (folder / "adapter_model.safetensors").unlink()
    saved(folder / "adapter_model.bin", {key: torch.from_numpy(values) for key, values in state.items()})
    assert read_adapter(folder, SHAPES).digest() == first.digest()


class Attack:
    """Makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(CheckpointError, match=r"posix\.mkdir.*may run code.*save_file"):
        read_pickled(saved(tmp_path / "a.bin", {"x": Attack(target)}))
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": torch.zeros(2, dtype=torch.int64)}, "LongStorage.*another dtype"),
        ({"x": torch.zeros(2, dtype=torch.float64)}, "DoubleStorage"),
        ({"x": 3}, "no mapping of names to tensors"),
        ([torch.zeros(2)], "no mapping of names to tensors"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_pickled(saved(tmp_path / "a.bin", content))


def test_files_that_torch_no_longer_writes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    torch.save({"x": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"is no file of torch.save of today"):
        read_pickled(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is no file of torch.save of today"):
        read_pickled(path)


def archive(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in records.items():
            file.writestr(f"a/{name}", data)
    return path


class Shaped:
    """A tensor of any shape and strides over a storage of four numbers."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: Any = 0) -> None:
        self.arguments = offset, shape, strides

    def __reduce__(self) -> Any:
        offset, shape, strides = self.arguments
        return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, strides, False, {})


class Storage:
    """Named by `persistent_id`."""


class Pickler(pickle.Pickler):
    """Writes storages as torch.save does."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, Storage) else None


def pickled(content: Any) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, 2).dump(content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((5,), (1,), 0),
        ((2, 2), (4, 1), 0),
        ((4,), (1,), 1),
        ((1 << 40,), (0,), 0),
        ((4,), (-1,), 0),
        ((4,), (1, 1), 0),
        ((4,), (1,), -1),
        ((4,), (1,), None),
    ],
)
def test_a_tensor_stays_inside_its_storage(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: Any
) -> None:
    records = {"data.pkl": pickled({"x": Shaped(shape, strides, offset)}), "data/0": bytes(16)}
    with pytest.raises(CheckpointError, match=r"larger than its storage|no valid shape"):
        read_pickled(archive(tmp_path / "a.bin", records))


def test_archives_that_are_damaged_or_huge_when_read_are_refused(tmp_path: Path) -> None:
    data = pickled({"x": Shaped((4,), (1,))})
    assert read_pickled(archive(tmp_path / "a.bin", {"data.pkl": data, "data/0": bytes(16)}))["x"].shape == (4,)
    bad = {
        "compressed": ({"data.pkl": data, "data/0": bytes(16)}, zipfile.ZIP_DEFLATED),
        "no record data/0": ({"data.pkl": data}, zipfile.ZIP_STORED),
        "no data.pkl": ({"other": data}, zipfile.ZIP_STORED),
        "data.pkl is damaged": ({"data.pkl": data[:-9], "data/0": bytes(16)}, zipfile.ZIP_STORED),
        "big-endian": ({"data.pkl": data, "data/0": bytes(16), "byteorder": b"big"}, zipfile.ZIP_STORED),
    }
    for words, (records, compression) in bad.items():
        with pytest.raises(CheckpointError, match=words):
            read_pickled(archive(tmp_path / "a.bin", records, compression))
    many = pickled({f"{index}": Shaped((1 << 18,), (1,)) for index in range(20)})
    with pytest.raises(CheckpointError, match="several times as large"):
        read_pickled(archive(tmp_path / "a.bin", {"data.pkl": many, "data/0": bytes(1 << 20)}))
