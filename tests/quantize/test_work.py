"""The folder of finished steps: what is saved is read, other settings and other processes are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.quantize.clock import Clock
from pocketvlm.quantize.methods import nearest
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.quantize.work import WorkFolder, remove_leftover
from pocketvlm.tensors import DenseTensor

SETTINGS = {"scheme": "int4-g32", "seed": 0}


def test_a_finished_step_is_read_by_a_later_run(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    w = random.standard_normal((9, 64), dtype=np.float32)
    made = {"w": nearest("w", w, tensor_scheme("int4-g32")), "norm": DenseTensor("norm", "f32", w[0])}
    path = tmp_path / "out.partial"
    with WorkFolder(path, SETTINGS) as work:
        assert work.info("layer-00") is None
        work.finish("layer-00", {"error": 0.5}, made, {"rows": w})
    with WorkFolder(path, SETTINGS) as work:
        assert work.info("layer-00") == {"error": 0.5}
        np.testing.assert_array_equal(work.array("layer-00", "rows"), w)
        for name, tensor in work.tensors("layer-00").items():
            np.testing.assert_array_equal(tensor.dequantize(), made[name].dequantize())
        work.drop_arrays("layer-00")
        assert not list(path.glob("*.npy"))
        assert work.tensors("layer-01") == {}
        work.remove()
    assert not path.exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    with WorkFolder(path, SETTINGS):
        pass
    with pytest.raises(OptionError, match=r"out\.partial: holds unfinished work with other settings: remove it"):
        WorkFolder(path, {**SETTINGS, "seed": 1})
    with WorkFolder(path, SETTINGS):  # the refusal left no lock
        pass


def test_files_of_others_are_refused_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    path.mkdir()
    (path / "thesis.txt").write_text("precious")
    with pytest.raises(OptionError, match=r"out\.partial: .* holds other files: move them away"):
        WorkFolder(path, SETTINGS)
    assert (path / "thesis.txt").read_text() == "precious"
    assert sorted(file.name for file in path.iterdir()) == ["thesis.txt"]
    linked = tmp_path / "linked.partial"
    linked.symlink_to(path)
    with pytest.raises(OptionError, match=r"linked\.partial: is a link"):
        WorkFolder(linked, SETTINGS)


@pytest.mark.parametrize("suffix", [".json", ".safetensors", ".rows.npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "bytes", "missing"])
def test_damaged_files_are_named_with_the_way_out(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / "out.partial"
    with WorkFolder(path, SETTINGS) as work:
        w = np.ones((4, 8), np.float32)
        work.finish("layer-00", {"error": 0.5}, {"norm": DenseTensor("norm", "f32", w[0])}, {"rows": w})
    file = path / f"layer-00{suffix}"
    data = file.read_bytes()
    if damage == "missing":
        if suffix == ".json":
            return  # a step that is not finished
        file.unlink()
    else:
        file.write_bytes({"cut": data[: len(data) - 3], "empty": b"", "bytes": b"\xff\xfe" * 20}[damage])

    def read(work: WorkFolder) -> None:
        work.info("layer-00")
        work.tensors("layer-00")
        work.array("layer-00", "rows")

    with WorkFolder(path, SETTINGS) as work, pytest.raises(CheckpointError) as error:
        read(work)
    assert str(error.value) == f"{file}: is damaged or missing: remove the folder {path} and run the command again"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    with WorkFolder(path, SETTINGS), pytest.raises(OptionError, match="another process works in it"):
        WorkFolder(path, SETTINGS)


def test_settings_that_cannot_be_written_leave_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.partial"
    with monkeypatch.context() as patch:
        patch.setattr("pocketvlm.quantize.work.write_all", full)
        with pytest.raises(CheckpointError, match=r"settings\.json: cannot be written: No space left"):
            WorkFolder(path, SETTINGS)
    with WorkFolder(path, SETTINGS):
        pass


def test_a_folder_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("pocketvlm.quantize.work.shutil.rmtree", busy)
    with (
        WorkFolder(tmp_path / "out.partial", SETTINGS) as work,
        pytest.warns(match=r"out\.partial: cannot be removed \(Device or resource busy\); the output is complete"),
    ):
        work.remove()


def test_only_a_leftover_that_nobody_uses_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    assert not remove_leftover(path)
    with WorkFolder(path, SETTINGS) as work:
        pass
    assert not remove_leftover(path)  # its steps are unfinished
    with WorkFolder(path, SETTINGS) as work:
        work.mark_writing()
        assert not remove_leftover(path)
    assert path.exists()
    assert remove_leftover(path)
    assert not path.exists()


def test_the_clock_learns_its_rate_and_ends_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pocketvlm.quantize.clock.time.perf_counter", lambda: now[0])
    seen: list[tuple[str, int, int, float | None]] = []
    clock = Clock({"a": (3, 1.0), "b": (2, 5.0)}, lambda *given: seen.append(given))
    clock.skip("a")
    for stage, seconds in (("a", 2), ("a", 2), ("b", 10), ("b", 10)):
        now[0] += seconds
        clock.done(stage)
    assert seen == [("a", 2, 3, 22.0), ("a", 3, 3, 20.0), ("b", 1, 2, 10.0), ("b", 2, 2, 0.0)]
