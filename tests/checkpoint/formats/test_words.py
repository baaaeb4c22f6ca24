"""The writers of these tests against the formats' own packers, and values in words against their plain definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_kit import Arrays, Matrix, awq_arrays, gptq_arrays, pack

from pocketvlm.checkpoint.formats.bitstream import unpack
from pocketvlm.checkpoint.formats.modules import QuantizedModule
from pocketvlm.checkpoint.formats.words import group_size
from pocketvlm.errors import TensorError

# blake2b of qweight and qzeros that the packers made of `deterministic(bits)`: AutoAWQ 0.2.9, AutoGPTQ 0.7.1,
# AutoRound 0.16.1, and GPTQModel of August 2026.
CHECKS = {
    ("AutoAWQ", 4): "26569cd8e55ff413",
    ("AutoRound as AWQ", 4): "26569cd8e55ff413",
    ("AutoRound as AWQ", 5): "5f1c596ec091a0e4",
    ("AutoRound as AWQ", 6): "c12a927ea26965bd",
    ("AutoRound as AWQ", 7): "dc352f39c3d5ab1d",
    ("AutoGPTQ", 2): "9306354341cda3b7",
    ("AutoGPTQ", 3): "2988a268ff05341d",
    ("AutoGPTQ", 4): "1543d237f7bd459e",
    ("AutoGPTQ", 8): "e7e462982c6ff9a9",
    ("GPTQModel v2", 2): "56f5b8415b0feb33",
    ("GPTQModel v2", 3): "252b86db050dd65b",
    ("GPTQModel v2", 4): "92254aabb9d4ae8a",
    ("GPTQModel v2", 8): "e9ebd592fda7f4bb",
    ("AutoRound", 5): "fdce5b4e695af519",
    ("AutoRound", 6): "0d7a24d5c53f331e",
    ("AutoRound", 7): "164f26bb956547ad",
}


def deterministic(bits: int) -> Matrix:
    """A matrix [64, 96] in groups of 32 that anyone can make again."""
    outputs, inputs, group = np.arange(64)[:, None], np.arange(96)[None], np.arange(3)[None]
    codes = (7 * outputs + 3 * inputs + outputs * inputs) % 2**bits
    zeros = 1 + (5 * outputs + 3 * group) % (2**bits - 1)
    scales = ((1 + (outputs + group) % 7) / 64).astype(np.float16)
    return Matrix(bits, codes, zeros, scales, (np.arange(96) // 32).astype(np.int32))


def digest(arrays: Arrays) -> str:
    data = b"".join(arrays[name][1].tobytes() for name in ("qweight", "qzeros"))
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@pytest.mark.parametrize(("packer", "bits"), CHECKS)
def test_the_writers_of_these_tests_pack_as_the_libraries_do(packer: str, bits: int) -> None:
    matrix = deterministic(bits)
    version = 1 if packer == "AutoGPTQ" else 2
    arrays = awq_arrays(matrix) if "AWQ" in packer else gptq_arrays(matrix, version)
    assert digest(arrays) == CHECKS[packer, bits]


def test_eight_values_in_a_word() -> None:
    eight = np.arange(8)[None]
    assert pack(eight, 4).view(np.uint32) == 0x76543210
    columns = Matrix(4, eight.T, eight.T, np.ones((8, 1), np.float16), np.zeros(1, np.int32))
    assert awq_arrays(columns)["qweight"][1].view(np.uint32) == 0x75316420


@given(st.integers(2, 8), st.lists(st.integers(0, 255), min_size=1, max_size=70), st.integers(1, 3))
def test_values_come_back_whatever_the_bits(bits: int, values: list[int], rows: int) -> None:
    expected = np.array([values] * rows) % 2**bits
    assert (unpack(pack(expected, bits), bits, len(values)) == expected).all()


def test_the_top_bit_of_a_word_is_a_bit() -> None:
    assert unpack(np.array([[-1, -(2**31)]], np.int32), 4, 16).tolist() == [[15] * 8 + [0] * 7 + [8]]


@pytest.mark.parametrize(
    ("inputs", "groups", "configured", "expected"),
    [
        (256, 2, (128,), 128),
        (256, 8, (128,), 32),  # only some modules have it, and the settings do not say so
        (256, 8, (128, 32), 32),
        (160, 2, (128,), 128),  # the second group ends early
        (96, 1, (128,), 96),
        (96, 1, (-1,), 96),
        (160, 2, (80,), 80),
    ],
)
def test_the_size_of_groups(inputs: int, groups: int, configured: tuple[int, ...], expected: int) -> None:
    assert group_size(QuantizedModule("m.weight", (8, inputs), {}), groups, configured) == expected


@pytest.mark.parametrize(
    ("inputs", "groups", "configured", "message"),
    [
        (160, 3, (128,), r"m.scales: 3 groups do not divide 160 inputs evenly: download"),
        (160, 0, (128,), r"m.scales: 0 groups do not divide 160 inputs evenly: download"),
        (160, 2, (128, 96), r"m.scales: 2 rows fit groups of 96 and of 128 inputs: download"),
    ],
)
def test_groups_without_a_size(inputs: int, groups: int, configured: tuple[int, ...], message: str) -> None:
    with pytest.raises(TensorError, match=message):
        group_size(QuantizedModule("m.weight", (8, inputs), {}), groups, configured)
