"""What AWQ, GPTQ and AutoRound share: integers in 32-bit words, whose bits and groups show in the arrays' shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from pocketvlm.checkpoint.formats.bitstream import word_count
from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Shape, StoredArray, lazy
from pocketvlm.checkpoint.formats.modules import FLOATS, WAY_OUT, QuantizedModule, numbers
from pocketvlm.checkpoint.formats.safetensors import TensorEntry, map_arrays
from pocketvlm.errors import TensorError
from pocketvlm.tensors import Array, Block, BlockValues, Tensor

WORDS = ("I32", "U32")


class WordsFormat(ModuleFormat):
    """A matrix is quantized where the file has its `qweight`."""

    marker: ClassVar[str] = "qweight"
    method: str

    def describe(self) -> str:
        return self.method

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        return super().tensors(_without_empty_biases(entries, expected), expected, where, sparse)


def _without_empty_biases(entries: Entries, expected: Mapping[str, Shape]) -> dict[str, TensorEntry]:
    """The entries without zero biases of quantized layers that have none: AutoGPTQ used to write those everywhere.

    Raises TensorError for such a bias that is not zero.
    """
    result = dict(entries)
    for name in entries:
        module, _, suffix = name.rpartition(".")
        if suffix != "bias" or name in expected or f"{module}.qweight" not in entries:
            continue
        (values,) = map_arrays([entries[name]], sparse=True)
        if values.any():
            raise TensorError(
                f"{entries[name].file}: {entries[name].name}: the model has no bias there, and this one is not zero: "
                f"{WAY_OUT}"
            )
        del result[name]
    return result


def fitting_bits(module: QuantizedModule, values: int, words: int, configured: int, choices: Sequence[int]) -> int:
    """The bits a value, from the number of values and of words: those of the settings, or the only ones that fit.

    Raises TensorError, naming the array that does not fit.
    """
    fitting = [bits for bits in choices if word_count(values, bits) == words]
    if configured in fitting:
        return configured
    if len(fitting) != 1:
        widths = ", ".join(map(str, choices))
        what = f"{words} words do not hold {values} codes of {widths} bits, or config.json names another format"
        raise module.fail("qweight", what)
    return fitting[0]


def group_size(module: QuantizedModule, groups: int, configured: Iterable[int]) -> int:
    """Inputs that share a scale, of which the last group may have fewer.

    configured: sizes that the settings name, -1 for all inputs; the one that fits the number of groups counts, else an
    even division. Raises TensorError if no size fits, or several do.
    """
    inputs = module.shape[1]
    sizes = {inputs if size < 1 else min(size, inputs) for size in configured}
    fitting = sorted(size for size in sizes if size and -(-inputs // size) == groups)
    if len(fitting) == 1:
        return fitting[0]
    if groups < 1 or (not fitting and inputs % groups):
        raise module.fail("scales", f"{groups} groups do not divide {inputs} inputs evenly")
    if fitting:
        raise module.fail("scales", f"{groups} rows fit groups of {' and of '.join(map(str, fitting))} inputs")
    return inputs // groups


def scales(module: QuantizedModule) -> Array:
    """The scales, stored as [groups, outputs], as [outputs, groups]. Raises TensorError for another dtype or shape."""
    groups, _ = module.sides("scales", FLOATS)
    outputs = module.shape[0]
    stored = module.array("scales", FLOATS, (groups, outputs))
    return numbers(StoredArray(stored.dtype, stored.data.T), (outputs, groups))


def middle(outputs: int, groups: int, bits: int, block: Block) -> BlockValues:
    """The zero points of symmetric codes that come without any: the middle code."""
    zero = 2 ** (bits - 1)
    return BlockValues(lazy((outputs, groups), np.uint8, lambda: np.full((outputs, groups), zero, np.uint8)), block)
