"""`TensorScheme` is the contract of a quantization scheme: how one matrix becomes codes, scales and the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.quantize.grids import Grid
from pocketvlm.tensors import QuantizedTensor

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8] | NDArray[np.int8]


class TensorScheme(ABC):
    """How a matrix [outputs, inputs] is quantized. Methods (round to nearest, GPTQ, AWQ) work with any scheme.

    A matrix is cut along its inputs into spans whose parameters (scales, zero points, biases) are fitted together: a
    group, the 256 inputs of a K-quant's super-block, or the whole row. name: as users write it, such as "int4-g64" or
    "Q4_K".
    """

    name: str
    # Methods may process the inputs in any order, because the format stores the permutation of the columns.
    permutes: bool = False

    @abstractmethod
    def span(self, inputs: int) -> int:
        """The number of neighbouring inputs whose parameters are fitted together."""

    @abstractmethod
    def problem(self, shape: tuple[int, int]) -> str | None:
        """Why a matrix of this shape cannot be quantized so, naming the width; None if it can."""

    @abstractmethod
    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """Bits for each weight, scales and zero points included."""

    def bound(self, w: Floats) -> TensorScheme:
        """The scheme with what it takes from the whole matrix w, such as one scale for all of it. By default itself."""
        return self

    @abstractmethod
    def fit(self, w: Floats, importance: Floats | None = None) -> Any:
        """The parameters of one span that minimise the squared error of w [rows, span] after rounding.

        The parameters have the values that are stored (scales already rounded to their own type). importance: [span] or
        [rows, span], the weight of each squared error; None means that all are equal.
        """

    @abstractmethod
    def grid(self, parameters: Any) -> Grid:
        """The values that codes of a span with these parameters can have: those of `tensor`, bit for bit."""

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Any:
        """The parameters of a span whose codes are fixed, refitted to the inputs; the error never grows.

        codes: [span, rows]. gradient: [span, rows], G E with the Gram matrix G of all inputs, those rows of it that
        belong to the span, and E [inputs, rows] = weights less their values. gram: G of the span [span, span].
        By default the parameters as they are.
        """
        return parameters

    @abstractmethod
    def tensor(
        self,
        name: str,
        codes: Codes,
        parameters: Sequence[Any],
        permutation: NDArray[np.integer[Any]] | None = None,
        origin: str = "",
    ) -> QuantizedTensor:
        """The matrix of codes [outputs, inputs] with the parameters of its spans, in order.

        permutation: see `QuantizedTensor`; only for schemes that permute.
        """

    @abstractmethod
    def placeholder(self, name: str, shape: tuple[int, int]) -> QuantizedTensor:
        """A tensor whose fields are as those of `tensor`, but whose arrays cannot be read.

        Writers say from it whether their format holds such tensors.
        """
