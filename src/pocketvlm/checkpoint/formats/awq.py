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

from pocketvlm.checkpoint.formats.bitstream import chunks, unpack, word_count
from pocketvlm.checkpoint.formats.format import Entries, Parts, Settings, Shape, lazy
from pocketvlm.checkpoint.formats.gptq import group_sizes
from pocketvlm.checkpoint.formats.modules import QuantizedModule
from pocketvlm.checkpoint.formats.settings import INSTEAD, choice, flag, integer, method_of
from pocketvlm.checkpoint.formats.words import WORDS, WordsFormat, fitting_bits, group_size, middle, scales
from pocketvlm.errors import ConfigError
from pocketvlm.tensors import BlockValues, QuantizedTensor

BITS = (4,)
INTERLEAVED = 8
# Where each of eight neighbouring outputs is stored.
POSITIONS = np.array([0, 4, 1, 5, 2, 6, 3, 7])


@dataclass(frozen=True, slots=True)
class AWQFormat(WordsFormat):
    """One checkpoint's AWQ variant; fields as those of GPTQFormat."""

    suffixes: ClassVar[frozenset[str]] = frozenset({"qweight", "qzeros", "scales"})

    method: str
    bits: int
    group_sizes: tuple[int, ...]
    symmetric: bool
    choices: tuple[int, ...] = BITS

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        outputs, inputs = module.shape
        bits = fitting_bits(module, outputs, module.sides("qweight", WORDS)[1], self.bits, self.choices)
        if outputs % INTERLEAVED:
            raise module.fail("qweight", f"AWQ needs a multiple of {INTERLEAVED} outputs, not {outputs}")
        words = word_count(outputs, bits)
        qweight = module.array("qweight", WORDS, (inputs, words)).data
        values = scales(module)
        groups = values.shape[1]
        block = (1, group_size(module, groups, self.group_sizes))
        if self.symmetric and "qzeros" not in parts:
            zero_points = middle(outputs, groups, bits, block)
        else:
            qzeros = module.array("qzeros", WORDS, (groups, words)).data
            zero_points = BlockValues(
                lazy((outputs, groups), np.uint8, lambda: _by_output(qzeros, bits, outputs)), block
            )
        codes = lazy(module.shape, np.uint8, lambda: _by_output(qweight, bits, outputs))
        return QuantizedTensor(name, bits, module.shape, codes, BlockValues(values, block), zero_points)


def _by_output(words: NDArray[Any], bits: int, outputs: int) -> NDArray[np.uint8]:
    """The values [outputs, rows] of words [rows, n], outputs in their natural order."""
    order = (np.arange(0, outputs, INTERLEAVED)[:, None] + POSITIONS).ravel()
    values = np.empty((outputs, len(words)), np.uint8)
    for rows in chunks(len(words), outputs):
        values[:, rows] = unpack(words[rows], bits, outputs, order).T
    return values


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
