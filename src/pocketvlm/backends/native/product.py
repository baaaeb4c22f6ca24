"""Says how the native backend multiplies a tensor, and why, for people."""

from __future__ import annotations

from pocketvlm.backends.native.layout import kernel_of
from pocketvlm.backends.options import Scheme
from pocketvlm.schemes import Role
from pocketvlm.tensors import QuantizedTensor, Tensor


def product_of(tensor: Tensor, role: Role, scheme: Scheme) -> str:
    """How a tensor of this role is multiplied under a scheme; reads no values."""
    if role in ("embedding", "position_embedding"):
        return f"rows are looked up, {'dequantized' if isinstance(tensor, QuantizedTensor) else 'as stored'}"
    if isinstance(tensor, QuantizedTensor):
        if scheme.precision == "exact":
            return "float32 products (dequantized: precision exact)"
        return kernel_of(tensor)
    if scheme.products == "float32":
        return f"float32 products ({scheme.products_reason})"
    if tensor.dtype == "bf16" and scheme.products == "bfloat16":
        return "bfloat16 products where the processor has them, else float32 (stored in bfloat16)"
    return f"float32 products (stored in {'float16' if tensor.dtype == 'f16' else tensor.dtype})"
