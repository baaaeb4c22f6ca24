"""Warnings of libraries: one clean line each in a command, one JSON line each of a server, nothing raw on stderr."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from clips import write_clip
from PIL import Image

import pocketvlm
from pocketvlm.cli.notices import clean_stderr, clean_warnings
from pocketvlm.server.logs import Log


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A picture whose EXIF data ends early, which makes Pillow warn."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, 3, 1)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "odd.jpg", exif=exif)
    return tmp_path / "odd.jpg"


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """A TIFF file with damaged pixels, which makes libtiff write to stderr."""
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 9, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, "TIFF", compression="tiff_lzw")
    changed = bytearray(data.getvalue())
    changed[20:60] = b"\xff" * 40
    (tmp_path / "torn.tif").write_bytes(changed)
    return tmp_path / "torn.tif"


def damaged_clip(path: Path) -> Path:
    """A clip that FFmpeg decodes with complaints."""
    write_clip(path, 30, 10, size=(128, 96))
    data = bytearray(path.read_bytes())
    at, end = data.index(b"mdat"), data.index(b"moov")
    for number in range(at + (end - at) // 3, end - 10, max(1, (end - at) // 60)):
        data[number] ^= 0xFF
    path.write_bytes(data)
    return path


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(pocketvlm.__file__).parents[1])}
    command = [sys.executable, "-m", "pocketvlm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_a_picture_that_makes_pillow_warn(odd: Path) -> None:
    done = call("tokens", "-i", str(odd))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: Pillow: Corrupt EXIF data. Expecting to read 12 bytes but only got ")
    assert call("tokens", "-i", str(odd), "--quiet").stderr == ""


def test_a_picture_that_makes_libtiff_write_to_stderr(torn: Path) -> None:
    done = call("tokens", "-i", str(torn))
    assert done.returncode == 1
    *others, last = sorted(done.stderr.splitlines(), reverse=True)
    assert last.startswith("error: image 1: ")
    assert others
    assert all(line.startswith("warning: ") for line in others)
    (line,) = call("tokens", "-i", str(torn), "-q").stderr.splitlines()
    assert line == last


def test_a_clip_that_makes_ffmpeg_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = damaged_clip(tmp_path / "clip.mp4")
    for line in call("tokens", "-v", str(clip)).stderr.splitlines():
        assert line.startswith(("warning: ", "error: "))
    said: list[str] = []
    # PyAV silences FFmpeg; as it is without that, so that there is something to see.
    av.logging.restore_default_callback()
    try:
        with clean_stderr(lambda text, _: said.append(text)), av.open(str(clip)) as file:
            for packet in file.demux(video=0):
                try:
                    packet.decode()
                except av.FFmpegError:
                    continue
    finally:
        av.logging.set_level(None)
    assert any("h264" in line or "error" in line for line in said), said
    assert capfd.readouterr().err == ""


def test_stderr_of_python_goes_on_and_everything_is_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    before = sys.stderr, warnings.showwarning, logging.getLoggerClass(), logging.getLogger().handlers[:]
    with clean_stderr(lambda text, _: said.append(text)), clean_warnings(lambda text, _: said.append(text)):
        os.write(2, b"raw\n\n  and\tmore")
        print("of ours", file=sys.stderr)
        warnings.warn("once\nonly", stacklevel=1)
        warnings.warn("once\nonly", stacklevel=1)
        warnings.warn(Image.DecompressionBombWarning("large"), stacklevel=1)
        logger = logging.getLogger("a_library.part")
        logging.getLogger("a_library").addHandler(logging.StreamHandler())
        logger.warning("logged %s", "too")
        logger.info("not this")
        sys.stderr.write("and a piece")
    assert sorted(said) == ["and more", "logged too", "once only", "raw"]
    after = sys.stderr, warnings.showwarning, logging.getLoggerClass(), logging.getLogger().handlers[:]
    assert before == after
    assert capfd.readouterr().err == "of ours\nand a piece"
    os.write(2, b"raw again\n")
    assert capfd.readouterr().err == "raw again\n"


def test_a_log_record_whose_arguments_do_not_fit() -> None:
    said: list[str] = []
    with clean_warnings(lambda text, _: said.append(text)):
        record = logging.LogRecord("a_library", logging.WARNING, "a.py", 1, "%d pixels", ("many",), None)
        logging.getLogger().handlers[-1].handle(record)
    assert said == ["%d pixels"]


def test_importing_the_package_leaves_warnings_alone() -> None:
    code = (
        "import logging, sys, warnings; before = warnings.showwarning, sys.stderr\n"
        "import pocketvlm, pocketvlm.cli.app, pocketvlm.processor.media\n"
        "assert before == (warnings.showwarning, sys.stderr) and not logging.getLogger().handlers"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(pocketvlm.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_server_writes_them_as_json(odd: Path, torn: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(pocketvlm.__file__).parents[1])}
    command = [sys.executable, "-m", "pocketvlm", "serve", "nano", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        url = process.stderr.readline().split(" at ")[1].split(": ")[0]
        for path, status in ((odd, 200), (torn, 400)):
            uri = "data:;base64," + base64.b64encode(path.read_bytes()).decode()
            content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What?"}]
            body = {"model": "nano", "max_tokens": 2, "messages": [{"role": "user", "content": content}]}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == status
    finally:
        process.terminate()
        rest = process.stderr.read()
        process.wait(30)
    lines = [json.loads(line) for line in rest.splitlines()]
    found = [line for line in lines if line.get("event") == "warning"]
    assert [line["status"] for line in lines if "status" in line] == [200, 400]
    assert any(line["source"] == "Pillow" and "EXIF" in line["warning"] for line in found)
    assert any(line["source"] == "" for line in found)


def test_a_server_without_a_log_writes_no_warnings() -> None:
    stream = io.StringIO()
    Log("none", stream).warning("text", "source")
    assert stream.getvalue() == ""
