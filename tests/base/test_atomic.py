"""Files that are written whole or not at all."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from pocketvlm.atomic import TEMPORARY, replacing, write_all


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"before")
    with replacing(path, durable) as file:
        write_all(file, b"af")
        (other,) = (each for each in tmp_path.iterdir() if each != path)
        assert other.name.startswith(".file.")
        assert other.suffix == TEMPORARY
        with other.open("rb") as reader, pytest.raises(OSError, match="unavailable"):
            fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(file, memoryview(b"ter"))
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write() -> None:
        with replacing(path) as file:
            write_all(file, b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_takes_data_in_parts() -> None:
    class Slow:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: memoryview) -> int:
            self.data += data[:3]
            return len(data[:3])

    slow = Slow()
    write_all(slow, b"0123456789")  # type: ignore[arg-type]
    assert slow.data == b"0123456789"
