"""The network is written once over the operations of a backend."""

from pocketvlm.model.minicpmv import MiniCPMV, expected_tensors, tensor_roles

__all__ = ["MiniCPMV", "expected_tensors", "tensor_roles"]
