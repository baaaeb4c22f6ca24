"""AWQ and GPTQ arrays equal those of the formats' own packers, by digests of these, and of independent writers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from word_kit import Arrays, Matrix, awq_arrays, gptq_arrays, random_matrix
from writer_kit import NAME

from pocketvlm.checkpoint.writers.awq import AWQWriter
from pocketvlm.checkpoint.writers.gptq import Common, GPTQWriter
from pocketvlm.tensors import BlockValues, QuantizedTensor

# blake2b of qweight and qzeros that AutoAWQ 0.2.9 and AutoGPTQ 0.7.1 made of `deterministic(bits)`; see test_words.py.
AWQ_DIGEST = "26569cd8e55ff413"
GPTQ_DIGESTS = {2: "9306354341cda3b7", 3: "2988a268ff05341d", 4: "1543d237f7bd459e", 8: "e7e462982c6ff9a9"}


def deterministic(bits: int) -> Matrix:
    """A matrix [64, 96] in groups of 32 that anyone can make again."""
    outputs, inputs, group = np.arange(64)[:, None], np.arange(96)[None], np.arange(3)[None]
    codes = (7 * outputs + 3 * inputs + outputs * inputs) % 2**bits
    zeros = 1 + (5 * outputs + 3 * group) % (2**bits - 1)
    scales = ((1 + (outputs + group) % 7) / 64).astype(np.float16)
    return Matrix(bits, codes, zeros, scales, (np.arange(96) // 32).astype(np.int32))


def tensor(matrix: Matrix) -> QuantizedTensor:
    """The same matrix with its columns in the order of their groups."""
    order = np.argsort(matrix.g_idx, kind="stable")
    group = int((matrix.g_idx == 0).sum())
    shape = (matrix.codes.shape[0], matrix.codes.shape[1])
    in_order = np.array_equal(order, np.arange(shape[1]))
    return QuantizedTensor(
        NAME,
        matrix.bits,
        shape,
        matrix.codes[:, order].astype(np.uint8),
        BlockValues(matrix.scales, (1, group)),
        BlockValues(matrix.zeros.astype(np.uint8), (1, group)),
        permutation=None if in_order else order,
    )


def written(format: str, matrix: Matrix, version: int = 1) -> Arrays:
    found = tensor(matrix)
    if format == "awq":
        arrays = AWQWriter().matrix(NAME, found, AWQWriter().context({NAME: found}))
    else:
        arrays = GPTQWriter().matrix(NAME, found, Common(matrix.bits, found.scales.block[1], False, version))  # type: ignore[index]
    return {name.rpartition(".")[2]: (array.dtype, array.read()) for name, array in arrays.items()}


def digest(arrays: Arrays) -> str:
    data = b"".join(arrays[name][1].tobytes() for name in ("qweight", "qzeros"))
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def test_awq_as_autoawq_packs_it() -> None:
    assert digest(written("awq", deterministic(4))) == AWQ_DIGEST


@pytest.mark.parametrize("bits", GPTQ_DIGESTS)
def test_gptq_as_autogptq_packs_it(bits: int) -> None:
    assert digest(written("gptq", deterministic(bits))) == GPTQ_DIGESTS[bits]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq_as_an_independent_writer(bits: int, version: int, shuffled: bool) -> None:
    matrix = random_matrix(64, 96, bits, 32, shuffled=shuffled)
    expected = gptq_arrays(matrix, version)
    for name, (dtype, values) in written("gptq", matrix, version).items():
        assert dtype == expected[name][0]
        assert np.array_equal(values, expected[name][1]), name


def test_awq_as_an_independent_writer() -> None:
    matrix = random_matrix(64, 96, 4, 32)
    expected = awq_arrays(matrix)
    for name, (dtype, values) in written("awq", matrix).items():
        assert dtype == expected[name][0]
        assert np.array_equal(values, expected[name][1]), name


def test_a_zero_point_0_of_version_1_is_read_as_0_again() -> None:
    """AutoGPTQ's own edge: stored less one it is the largest code."""
    matrix = random_matrix(32, 64, 4, 32)
    matrix.zeros[0, 0] = 0
    word = written("gptq", matrix)["qzeros"][1].view(np.uint32)[0, 0]
    assert word & 15 == 15
