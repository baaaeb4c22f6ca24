"""`Backend` is the contract of a backend: the operations, and weights, memory, steps, capture and sampling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Batch, I, Ints, Step
from pocketvlm.backends.ops import A, KVCache, LowRank, Ops, W
from pocketvlm.backends.options import Scheme
from pocketvlm.backends.top import TopLogits, top_logits
from pocketvlm.schemes import Role
from pocketvlm.tensors import Tensor

Factors = tuple[NDArray[np.float32], NDArray[np.float32], float]  # a [rank, in], b [out, rank] and scale of an update


@dataclass(frozen=True, slots=True)
class CacheLocation:
    """Where prepared weights are cached, and what they are prepared from.

    directory: of the files; it is created if it is missing. model, path: the user's name and the directory of the
    checkpoint, for the list of files. fingerprint: changes with the content of the checkpoint.
    """

    directory: Path
    model: str
    path: str
    fingerprint: str


class Backend(Ops[A, W, I]):
    """One folder implements it, and its `create` returns the object. It has the operations as its own methods.

    name: "native" or "torch". scheme: how weights are stored and multiplied. state_dtype: of the recurrent
    state. patches_at_once: patches that the vision side gives to one pass; a larger pass takes longer for each patch.
    """

    name: str
    scheme: Scheme
    patches_at_once: int
    state_dtype: np.dtype[Any] = np.dtype(np.float32)

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What was chosen and why (instruction set, threads, weight type), for `pocketvlm info`."""

    def limits(self) -> dict[str, float] | None:
        """The limits of the machine, measured now; None if the backend does not measure them.

        read_bandwidth: bytes a second; int8, float32, and bfloat16 if the processor has such products: multiplications
        and additions a second, in registers alone.
        """
        return None

    @abstractmethod
    def with_scheme(self, scheme: Scheme) -> Backend[A, W, I]:
        """The same threads and kernels for weights that are stored and multiplied as `scheme` says.

        Raises OptionError for the scheme of another backend.
        """

    def weight_cache(
        self, location: CacheLocation | None, tensors: Mapping[str, Tensor]
    ) -> AbstractContextManager[None]:
        """A context in which `prepare` may load prepared weights from a file. New ones are written when it ends well.

        tensors: all that will be prepared. location: None means that there is no cache. A backend whose handles cost
        nothing to make does nothing here.
        """
        return nullcontext()

    @abstractmethod
    def prepare(self, tensor: Tensor, role: Role) -> Any:
        """Turn a tensor into this backend's handle for its role, which alone says what the tensor is for.

        Matrices [out, in] ("matrix", "gate", "head", "vision_matrix", "patch_embedding") serve `linear`, an "embedding"
        or a "position_embedding" [rows, H] `embed`, a "tied_embedding" both. "norm", "conv" and "vector" (any shape)
        become a plain float32 array of that shape. Quantized values are those of `dequantize`, within the rounding of
        the scales to the backend's own type. Raises BackendError for a quantized tensor that the kernels cannot
        multiply, and ValueError for a dense one that the scheme stores quantized: see `pocketvlm.quantize`.
        """

    @abstractmethod
    def product(self, tensor: Tensor, role: Role) -> str:
        """How the prepared tensor is multiplied, or looked up, and why, for people; reads no values."""

    @abstractmethod
    def low_rank(self, a: NDArray[np.float32], b: NDArray[np.float32], scale: float) -> LowRank[Any]:
        """An adapter's update of one matrix, for `add_updates`: a [rank, in], b [out, rank]."""

    def low_ranks(self, updates: Sequence[Factors]) -> Sequence[LowRank[Any]]:
        """`low_rank` of several matrices; a backend may store them so that steps read them in this order."""
        return [self.low_rank(*update) for update in updates]

    @abstractmethod
    def indices(self, values: Ints) -> I:
        """An index array of this backend (may share memory)."""

    @abstractmethod
    def step(self, batch: Batch) -> Step[I]:
        """A batch's index arrays as this backend's, prepared once for all layers; the operations check the values."""

    def capture(self, work: Callable[[], A]) -> tuple[A, Callable[[], A]]:
        """Run `work`, capture its operations, and return its result and a function that replays them.

        A replay runs the same operations on the same arrays, whose contents may have changed (`Step.update`), and
        nothing else of `work`; the function retains those arrays. A replay's result is valid until the next replay or
        capture. A backend that cannot capture returns `work` itself.
        """
        return work(), work

    def return_memory(self) -> None:
        """Return freed memory to the system; the engine calls this when it is idle after large operations."""

    @abstractmethod
    def zeros(self, *shape: int) -> A:
        """A zeroed array of `state_dtype`, for recurrent states."""

    @abstractmethod
    def kv_cache(self, pages: int, kv_heads: int, page_size: int, head_dim: int) -> KVCache[A]:
        """A zeroed KV cache of one layer, in the type of the scheme."""

    @abstractmethod
    def from_numpy(self, array: NDArray[np.float32]) -> A:
        """A float32 NumPy array as this backend's array (may share memory)."""

    @abstractmethod
    def to_numpy(self, array: A) -> NDArray[np.float32]:
        """This backend's array as a float32 NumPy array (may share memory)."""

    def argmax(self, logits: A, row: int) -> int:
        """The id of the largest value of a row of logits [n, vocab], the first of equal ones."""
        return int(self.to_numpy(logits)[row].argmax())

    def top_logits(self, logits: A, row: int, count: int) -> TopLogits:
        """The `count` largest values of a row of logits [n, vocab], as `pocketvlm.backends.top.top_logits` chooses."""
        return top_logits(self.to_numpy(logits)[row], count)


# For code that handles arrays and handles of any backend without looking inside.
AnyBackend = Backend[Any, Any, Any]
