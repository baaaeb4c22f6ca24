"""Quantization turns dense tensors into `QuantizedTensor`s; it knows no file format and no kernel layout."""

from pocketvlm.quantize.apply import quantized
from pocketvlm.quantize.nearest import round_to_nearest

__all__ = ["quantized", "round_to_nearest"]
