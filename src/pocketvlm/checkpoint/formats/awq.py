"""The AWQ format of AutoAWQ's version GEMM: codes and zero points packed along the outputs, in an interleaved order.

For a matrix [outputs, inputs] at `<module>`, words of 32 bits hold `qweight` [inputs, outputs * bits / 32] and `qzeros`
[groups, outputs * bits / 32]; `scales` [groups, outputs] are floats. value = (code - zero point) * scale. Of eight
neighbouring outputs the even ones come first: 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import Entries, Parts, Settings, Shape, lazy
from pocketvlm.checkpoint.formats.gptq import group_sizes
from pocketvlm.checkpoint.formats.settings import INSTEAD, choice, flag, group_words, integer, method_of
from pocketvlm.checkpoint.formats.words import (
    WAY_OUT,
    WordsFormat,
    check_words,
    chunks,
    fitting_bits,
    group_size,
    matrix_sides,
    middle,
    require,
    scale_values,
    sides,
    unpack,
    word_count,
)
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import BlockValues, QuantizedTensor

BITS = (4,)
_INTERLEAVED = 8
# Where each of eight neighbouring outputs is stored.
_POSITIONS = np.array([0, 4, 1, 5, 2, 6, 3, 7])
# Outputs that end where a word does, whatever the bits.
_UNIT = 32


@dataclass(frozen=True, slots=True)
class AWQFormat(WordsFormat):
    """One checkpoint's AWQ variant; fields as those of GPTQFormat."""

    suffixes: ClassVar[frozenset[str]] = frozenset({"qweight", "qzeros", "scales"})

    method: str
    bits: int
    group_sizes: tuple[int, ...]
    symmetric: bool
    choices: tuple[int, ...] = BITS

    def describe(self) -> str:
        return f"{self.method}, {self.bits} bits, {group_words(self.group_sizes[0])}"

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        outputs, inputs = matrix_sides(name, shape)
        require(name, parts, ("qweight", "scales") if self.symmetric else ("qweight", "qzeros", "scales"))
        qweight, scales = parts["qweight"], parts["scales"]
        bits = fitting_bits(name, outputs, sides(name, "qweight", qweight)[1], self.bits, self.choices)
        words = word_count(outputs, bits)
        if outputs % _INTERLEAVED:
            raise TensorError(f"{name}: AWQ needs a multiple of {_INTERLEAVED} outputs, not {outputs}: {WAY_OUT}")
        check_words(name, "qweight", qweight, (inputs, words))
        groups, _ = sides(name, "scales", scales)
        values = scale_values(name, scales, (groups, outputs))
        block = (1, group_size(name, inputs, groups, self.group_sizes))

        def read() -> NDArray[np.uint8]:
            codes = np.empty((outputs, inputs), np.uint8)
            for part in chunks(outputs, inputs, _UNIT):
                some = qweight.data[:, part.start * bits // 32 : word_count(part.stop, bits)]
                codes[part] = _by_output(some, bits, part.stop - part.start)
            return codes

        if "qzeros" in parts:
            qzeros = parts["qzeros"]
            check_words(name, "qzeros", qzeros, (groups, words))

            def read_zeros() -> NDArray[np.uint8]:
                return _by_output(qzeros.data, bits, outputs)

            zero_points = BlockValues(lazy((outputs, groups), np.uint8, read_zeros), block)
        else:
            zero_points = middle(outputs, groups, bits, block)
        codes = lazy((outputs, inputs), np.uint8, read)
        return QuantizedTensor(name, bits, (outputs, inputs), codes, BlockValues(values, block), zero_points)


def _by_output(words: NDArray[Any], bits: int, outputs: int) -> NDArray[np.uint8]:
    """The values [outputs, rows] of words [rows, n], outputs in their natural order."""
    stored = np.ascontiguousarray(unpack(words, bits)[:, :outputs].T).reshape(-1, _INTERLEAVED, len(words))
    return stored[:, _POSITIONS].reshape(outputs, len(words))


def read_awq(settings: Settings, where: str, entries: Entries) -> AWQFormat | None:
    """The AWQ format that settings describe, None for another method. Raises ConfigError for an unsupported variant.

    Without a method, settings with `w_bit` are AutoAWQ's own file.
    """
    if method_of(settings) != "awq" and not (method_of(settings) is None and "w_bit" in settings):
        return None
    if settings.get("backend") == "llm-awq":
        raise ConfigError(f"{where}: backend='llm-awq' is not supported, only version 'gemm' is: {INSTEAD}")
    choice(settings, ("version", "format", "checkpoint_format"), where, "gemm", ("gemm",))
    bits = integer(settings, ("bits", "w_bit"), where, 4)
    if bits not in BITS:
        raise ConfigError(f"{where}: AWQ with {bits} bits is not supported, only with 4: {INSTEAD}")
    symmetric = not flag(settings, "zero_point", where, True)
    return AWQFormat("AWQ", bits, group_sizes(settings, where, "dynamic"), symmetric)
