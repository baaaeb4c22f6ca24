"""Packed codes come out as they went in, at any width, and the codebooks are those of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from word_kit import packed

from pocketvlm.checkpoint.formats import bitstream
from pocketvlm.checkpoint.formats.bitstream import packed_codes, unpack, unpack_words
from pocketvlm.checkpoint.formats.codebooks import e2m1, e2m3, e4m3, e5m2, e8m0
from pocketvlm.tensors import load


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("columns", [1, 7, 32, 37, 64, 129])
@pytest.mark.parametrize("chunk", [50, 1 << 20])
def test_codes_end_to_end(bits: int, columns: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitstream, "_CHUNK", chunk)
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, columns)).astype(np.uint8)
    codes[0] = 2**bits - 1  # the highest bit of signed words is set
    words = packed(codes, bits)
    for stored in (words, words.view("<i4"), words.view(np.uint8)):
        np.testing.assert_array_equal(unpack(stored, bits, columns), codes)
    np.testing.assert_array_equal(load(packed_codes(words, bits, codes.shape)), codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("columns", [1, 9, 64])
def test_words_filled_each_by_itself(bits: int, columns: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, columns)).astype(np.uint8)
    each = 32 // bits
    words = np.hstack([packed(codes[:, at : at + each], bits) for at in range(0, columns, each)])
    np.testing.assert_array_equal(unpack_words(words.view("<i4"), bits, columns), codes)


def test_five_bits_known_bytes() -> None:
    stream = np.frombuffer(bytes.fromhex("2088418a39"), np.uint8)[None]
    assert unpack(stream, 5, 8).tolist() == [list(range(8))]


def test_codebooks() -> None:
    np.testing.assert_array_equal(e2m1()[:8], [0, 0.5, 1, 1.5, 2, 3, 4, 6])
    np.testing.assert_array_equal(e2m3()[[1, 7, 8, 9, 31]], [0.125, 0.875, 1, 1.125, 7.5])
    np.testing.assert_array_equal(e4m3()[[0, 1, 7, 8, 0x38, 0x7E]], [0, 2**-9, 7 * 2**-9, 2**-6, 1, 448])
    np.testing.assert_array_equal(e5m2()[[1, 0x3C, 0x7B, 0x7C]], [2**-16, 1, 57344, np.inf])
    np.testing.assert_array_equal(e8m0()[[0, 1, 127, 254]], [2.0**-127, 2.0**-126, 1, 2.0**127])
    for signed, nans in ((e2m1(), 0), (e2m3(), 0), (e4m3(), 1), (e5m2(), 3)):
        positive, negative = np.split(signed, 2)
        np.testing.assert_array_equal(negative, -positive)
        assert np.signbit(negative[0])
        assert np.isnan(positive[len(positive) - nans :]).all()
        assert np.isnan(positive).sum() == nans
    assert np.isnan(e8m0()[255])
    assert np.isnan(e8m0()).sum() == 1
