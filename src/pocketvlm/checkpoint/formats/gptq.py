"""The GPTQ format of AutoGPTQ and GPTQModel: codes packed along the inputs, zero points along the outputs.

For a matrix [outputs, inputs] at `<module>`, words of 32 bits hold `qweight` [inputs * bits / 32, outputs] and `qzeros`
[groups, outputs * bits / 32]; `scales` [groups, outputs] are floats and `g_idx` [inputs], if there, is each input's
group. value = (code - zero point) * scale. Version 1 of the format stores zero points less one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import unpack, word_count
from pocketvlm.checkpoint.formats.format import Entries, Parts, Settings, Shape, lazy
from pocketvlm.checkpoint.formats.gptq_zeros import Zeros, version_1_zeros
from pocketvlm.checkpoint.formats.modules import QuantizedModule
from pocketvlm.checkpoint.formats.settings import INSTEAD, choice, flag, integer, method_of, refuse_if_set
from pocketvlm.checkpoint.formats.words import WORDS, WordsFormat, fitting_bits, group_size, middle, scales
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import BlockValues, QuantizedTensor

BITS = (2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class GPTQFormat(WordsFormat):
    """One checkpoint's GPTQ variant.

    method: its name. bits, group_sizes, symmetric: as the settings say (the first size is the default); each matrix's
    own come from its shapes. zeros: how zero points are stored. choices: numbers of bits that the format has.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    method: str
    bits: int
    group_sizes: tuple[int, ...]
    symmetric: bool
    zeros: Zeros
    choices: tuple[int, ...] = BITS

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        outputs, inputs = module.shape
        bits = fitting_bits(module, inputs, module.sides("qweight", WORDS)[0], self.bits, self.choices)
        qweight = module.array("qweight", WORDS, (word_count(inputs, bits), outputs)).data
        values = scales(module)
        groups = values.shape[1]
        if "g_idx" in parts:
            group, permutation = _order(module, groups)
        else:
            group, permutation = group_size(module, groups, self.group_sizes), None
        return QuantizedTensor(
            name,
            bits,
            module.shape,
            lazy(module.shape, np.uint8, lambda: unpack(qweight.T, bits, inputs, permutation)),
            BlockValues(values, (1, group)),
            zero_points=self._zero_points(module, groups, bits, group),
            permutation=permutation,
        )

    def _zero_points(self, module: QuantizedModule, groups: int, bits: int, group: int) -> BlockValues:
        outputs = module.shape[0]
        if self.symmetric and "qzeros" not in module.parts:
            return middle(outputs, groups, bits, (1, group))
        qzeros = module.array("qzeros", WORDS, (groups, word_count(outputs, bits))).data
        if problem := self.zeros.problem(bits):
            raise module.fail("qzeros", problem)

        def read() -> NDArray[np.uint8]:
            return np.ascontiguousarray(self.zeros.values(qzeros.view(np.uint32), bits, outputs).T)

        return BlockValues(lazy((outputs, groups), np.uint8, read), (1, group), offset=self.zeros.offset)


def _order(module: QuantizedModule, groups: int) -> tuple[int, NDArray[np.int64] | None]:
    """The size of the groups, and the inputs in the order of their groups; None where that is their own order.

    Reads g_idx. Raises TensorError for groups of unequal size, of which the last alone may be smaller.
    """
    inputs = module.shape[1]
    index = module.array("g_idx", ("I32", "I64", "U32"), (inputs,)).data.astype(np.int64)
    if index.min() < 0 or index.max() >= groups:
        raise module.fail("g_idx", f"it names groups {index.min()} to {index.max()}, scales has {groups}")
    counts = np.bincount(index, minlength=groups)
    size = int(counts[0])
    order = np.argsort(index, kind="stable")
    if not counts.all() or not np.array_equal(index[order], np.arange(inputs) // size):
        raise TensorError(
            f"{module.label('g_idx')} makes groups of unequal size, from {counts.min()} to {counts.max()} inputs, "
            f"which is not supported: use a checkpoint that was quantized without desc_act"
        )
    return size, None if np.array_equal(order, np.arange(inputs)) else order


def read_gptq(settings: Settings, where: str, entries: Entries) -> GPTQFormat | None:
    """The GPTQ format that settings describe, None for another method. Raises ConfigError for other variants of it."""
    unnamed = method_of(settings) is None and {"bits", "group_size", "desc_act"} <= settings.keys()
    if method_of(settings) not in ("gptq", "gptq_v2") and not unnamed:
        return None
    refuse_if_set(settings, "is_marlin_format", where, "the Marlin layout")
    refuse_if_set(settings, "rotation", where, "a rotation of activations")
    choice(settings, ("pack_dtype",), where, "int32", ("int32",))
    version = choice(settings, ("checkpoint_format", "format"), where, "gptq", ("gptq", "gptq_v2"))
    bits = integer(settings, ("bits", "w_bit"), where, 4)
    if bits not in BITS:
        raise ConfigError(f"{where}: GPTQ with {bits} bits is not supported, only with 2, 3, 4 or 8: {INSTEAD}")
    zeros = Zeros() if "gptq_v2" in (version, method_of(settings)) else version_1_zeros(settings, bits)
    return GPTQFormat("GPTQ", bits, group_sizes(settings, where, "dynamic"), flag(settings, "sym", where, True), zeros)


def group_sizes(settings: Settings, where: str, overrides: str) -> tuple[int, ...]:
    """The default group size of settings, then those of the section that overrides them for some modules."""
    sizes = [integer(settings, ("group_size", "q_group_size"), where, 128, minimum=-1)]
    section = settings.get(overrides)
    for module, values in section.items() if isinstance(section, dict) else ():
        if isinstance(values, dict):
            sizes.append(integer(values, ("group_size",), f"{where}: {overrides}[{module!r}]", sizes[0], minimum=-1))
    return tuple(dict.fromkeys(sizes))
