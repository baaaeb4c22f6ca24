"""The network is written once over the operations of a backend."""

from pocketvlm.model.adapters import LoadedAdapter
from pocketvlm.model.minicpmv import MiniCPMV, expected_tensors, tensor_roles

__all__ = ["LoadedAdapter", "MiniCPMV", "expected_tensors", "tensor_roles"]
