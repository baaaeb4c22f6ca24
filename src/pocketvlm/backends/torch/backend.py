"""`TorchBackend` adds weights, memory and steps to the operations in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvlm.backends.backend import Backend
from pocketvlm.backends.batch import Batch, Ints, Step, make_step
from pocketvlm.backends.ops import KVCache, LowRank
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.backends.top import TopLogits
from pocketvlm.backends.torch.ops import Tensor, TorchOps
from pocketvlm.errors import BackendError, OptionError
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.tensors import DenseTensor
from pocketvlm.tensors import Tensor as WeightTensor


class TorchBackend(TorchOps, Backend[Tensor, Tensor, Tensor]):
    """The contract on CPU or CUDA tensors. Nothing is captured or cached: PyTorch handles freed memory itself."""

    name = "torch"

    def __init__(self, threads: int | None = None, device: str | None = None, scheme: Scheme | None = None) -> None:
        self.scheme = scheme or choose("torch")
        if self.scheme.backend != self.name:
            raise OptionError(f"a scheme of backend {self.scheme.backend!r} does not fit backend {self.name!r}")
        if device is not None and device.split(":")[0] not in ("cpu", "cuda"):
            raise OptionError(f"device={device!r} is not known: give cpu, cuda or cuda:N")
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"device={device!r} is not available: PyTorch sees no CUDA device; use device='cpu'")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.patches_at_once = 1024 if self.device.type == "cpu" else 16 * 1024
        if threads is not None:
            torch.set_num_threads(threads)

    def describe(self) -> dict[str, str]:
        """What runs, and why."""
        why = "CUDA is present" if self.device.type == "cuda" else "no CUDA device"
        return {
            "backend": f"torch {torch.__version__}",
            "device": f"{self.device} ({why})",
            "threads": str(torch.get_num_threads()),
            **self.scheme.describe(),
        }

    def with_scheme(self, scheme: Scheme) -> TorchBackend:
        return TorchBackend(None, str(self.device), scheme)

    def prepare(self, tensor: WeightTensor, role: Role) -> Tensor:
        """A matrix in bfloat16 stays so, anything else becomes float32."""
        if role not in ARRAY_ROLES and isinstance(tensor, DenseTensor) and tensor.dtype == "bf16":
            bits = torch.from_numpy(np.array(tensor.finite_data()))
            return bits.view(torch.bfloat16).to(self.device)
        return torch.from_numpy(np.array(tensor.dequantize())).to(self.device)

    def product(self, tensor: WeightTensor, role: Role) -> str:
        stored = tensor.dtype if isinstance(tensor, DenseTensor) else "dequantized to float32"
        return f"float32 products ({stored}: all that this backend does)"

    def indices(self, values: Ints) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64)).to(self.device)

    def step(self, batch: Batch) -> Step[Tensor]:
        def overwrite(array: Tensor, values: Ints) -> None:
            array.copy_(torch.from_numpy(values))

        return make_step(batch, self.indices, overwrite)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def kv_cache(self, pages: int, kv_heads: int, page_size: int, head_dim: int) -> KVCache[Tensor]:
        shape = pages, kv_heads, page_size, head_dim
        return KVCache(self.zeros(*shape), self.zeros(*shape))

    def low_rank(self, a: NDArray[np.float32], b: NDArray[np.float32], scale: float) -> LowRank[Tensor]:
        return LowRank(self.from_numpy(a), self.from_numpy(b), scale)

    def from_numpy(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(self.device)

    def to_numpy(self, array: Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = array.cpu().numpy()
        return result

    def argmax(self, logits: Tensor, row: int) -> int:
        return int(self.top_logits(logits, row, 1).ids[0])

    def top_logits(self, logits: Tensor, row: int, count: int) -> TopLogits:
        values = logits[row]
        lowest = values.topk(min(count, len(values))).values[-1]
        ids = torch.nonzero(values >= lowest).flatten()
        return TopLogits(ids.cpu().numpy().astype(np.intp), self.to_numpy(values[ids]))
