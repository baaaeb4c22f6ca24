"""The release of PyAV that is needed, and the colours that it gives."""

from __future__ import annotations

import io
from importlib import metadata

import av
import numpy as np
import pytest

from pocketvlm.errors import BackendError
from pocketvlm.processor import container
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.limits import MediaLimits

# Codes of H.273 for the matrix, and its weights of red and blue.
MATRICES = {"bt709": (1, 0.2126, 0.0722), "bt601": (6, 0.299, 0.114)}
FULL = {"limited": (1, False), "full": (2, True)}


@pytest.fixture
def unchecked():
    container.load_pyav.cache_clear()
    yield
    container.load_pyav.cache_clear()


@pytest.mark.parametrize("version", ["13.1.0", "16.0.1"])
def test_old_releases_are_refused_at_first_use(version, unchecked, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(BackendError) as caught:
        open_frames(b"no video", MediaLimits())
    text = str(caught.value)
    assert text.startswith(f"PyAV {version} is installed, videos need 17 or newer")
    assert text.endswith('pip install --upgrade "av>=17"')


def test_a_missing_package_is_named(unchecked, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(BackendError, match=r'PyAV, which is not installed: pip install --upgrade "av>=17"'):
        container.load_pyav()


def test_new_releases_pass(unchecked, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "17.0.0rc1")
    assert container.load_pyav() is av


def colours():
    """uint8 [48, 64, 3]: bars of eight colours, a ramp of greys, and soft gradients."""
    rows, cols = np.mgrid[:48, :64]
    pixels = np.stack([cols * 4, rows * 5, 255 - cols * 4], -1).astype(np.uint8)
    bars = [(red, green, blue) for red in (0, 255) for green in (0, 255) for blue in (0, 255)]
    pixels[:16] = np.repeat(np.array(bars, np.uint8), 8, axis=0)[None]
    pixels[16:24] = (np.arange(64) * 4)[None, :, None]
    return pixels


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("levels", FULL)
def test_colours_are_right_within_two_levels(matrix, levels):
    code, red, blue = MATRICES[matrix]
    range_code, full = FULL[levels]
    truth = colours()
    rgb = truth.astype(np.float64) / 255
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    chroma = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    planes = [luma * 255, *(each * 255 + 128 for each in chroma)]
    if not full:
        planes = [luma * 219 + 16, *(each * 224 + 128 for each in chroma)]
    yuv = np.stack([np.clip(np.round(plane), 0, 255).astype(np.uint8) for plane in planes])
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as output:
        video = output.add_stream("libx264", rate=5)
        video.width, video.height, video.pix_fmt, video.options = 64, 48, "yuv444p", {"qp": "0"}
        video.codec_context.colorspace, video.codec_context.color_range = code, range_code
        frame = av.VideoFrame.from_ndarray(yuv, format="yuv444p")
        frame.colorspace, frame.color_range = code, range_code
        output.mux(video.encode(frame))
        output.mux(video.encode())
    found = np.asarray(open_frames(stream.getvalue(), MediaLimits()).decoder([0]).read(0))
    assert np.abs(found.astype(int) - truth).max() <= 2
