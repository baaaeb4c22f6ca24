"""Quantizes the dense tensors of a network as the chosen scheme says for their roles."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.backends.options import Scheme
from pocketvlm.quantize.nearest import round_to_nearest
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, Tensor


def quantized(tensors: Mapping[str, Tensor], roles: Mapping[str, Role], scheme: Scheme) -> dict[str, Tensor]:
    """The tensors by name, with those that the scheme quantizes replaced by lazy quantized ones. Reads no values.

    roles: the role of each tensor. Tensors that are quantized in the checkpoint are not changed.
    """

    def stored(name: str, tensor: Tensor) -> Tensor:
        quantization = scheme.storage[roles[name]].quantization
        if quantization is None or not isinstance(tensor, DenseTensor):
            return tensor
        return round_to_nearest(tensor, quantization)

    return {name: stored(name, tensor) for name, tensor in tensors.items()}
