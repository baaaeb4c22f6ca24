"""Every quantization scheme of matrices by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3
from pocketvlm.errors import OptionError
from pocketvlm.quantize.affine import AffineScheme, BiasScheme, RowScheme, SymmetricScheme
from pocketvlm.quantize.k_quants import MinimumBlock, SixBitBlock
from pocketvlm.quantize.scaled import NvFp4Scheme, PowerScheme, iq4_nl, q4_0, q5_0, q8_0
from pocketvlm.quantize.tensor_scheme import TensorScheme

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (16, 32, 64, 128, 256)

_NAMED: dict[str, Callable[[], TensorScheme]] = {
    "int8": lambda: RowScheme("int8"),
    "Q4_0": q4_0,
    "Q4_1": lambda: BiasScheme("Q4_1", 4, 32, half=True),
    "Q5_0": q5_0,
    "Q5_1": lambda: BiasScheme("Q5_1", 5, 32, half=True),
    "Q8_0": q8_0,
    "Q4_K": lambda: MinimumBlock("Q4_K", 4),
    "Q5_K": lambda: MinimumBlock("Q5_K", 5),
    "Q6_K": SixBitBlock,
    "IQ4_NL": iq4_nl,
    "mxfp4": lambda: PowerScheme("mxfp4", 4, e2m1()),
    "mxfp8": lambda: PowerScheme("mxfp8", 8, e4m3()),
    "nvfp4": lambda: NvFp4Scheme("nvfp4", shared=True),
    "nvfp4-mlx": lambda: NvFp4Scheme("nvfp4-mlx", shared=False),
}


@cache
def schemes() -> dict[str, TensorScheme]:
    """All schemes by name.

    Affine ones are int{bits}-g{group} with float16 scales and zero points; "-sym" has the middle code as zero point,
    "-permuted" an order of the columns, as GPTQ stores it, and "-bias" bfloat16 scales and biases, as MLX has them.
    """
    found: dict[str, TensorScheme] = {}
    for bits in BITS:
        for group in GROUPS:
            name = f"int{bits}-g{group}"
            for suffix, permutes in (("", False), ("-permuted", True)):
                found[name + suffix] = AffineScheme(name + suffix, bits, group, permutes)
                symmetric = f"{name}-sym{suffix}"
                found[symmetric] = SymmetricScheme(symmetric, bits, group, permutes)
            found[f"{name}-bias"] = BiasScheme(f"{name}-bias", bits, group)
    return found | {name: make() for name, make in _NAMED.items()}


def tensor_scheme(name: str) -> TensorScheme:
    """The scheme of a name. Raises OptionError, with the names, for another one."""
    found = schemes().get(name)
    if found is not None:
        return found
    bits, groups = (",".join(str(number) for number in numbers) for numbers in (BITS, GROUPS))
    raise OptionError(
        f"unknown quantization scheme {name!r}: use int{{{bits}}}-g{{{groups}}}, perhaps with -sym, -bias, -permuted "
        f"or -sym-permuted, or one of {', '.join(_NAMED)}"
    )
