"""`Processes` is what one of several training processes knows of the others (`accelerate launch` starts them)."""

from __future__ import annotations

from typing import Any

import torch

from pocketvlm.errors import BackendError


def check_cuda() -> None:
    """Raise BackendError where PyTorch finds no GPU."""
    if not torch.cuda.is_available():
        raise BackendError("device='cuda': PyTorch finds no CUDA device here: give 'cpu', or leave the option out")


class Processes:
    """This process among those of a run: its rank, its device, and sums over all of them. One process is a run too."""

    def __init__(self, device: str | None, threads: int | None = None) -> None:
        """device: "cpu", or "cuda" where there is one; None: cuda if there is one. threads: of the CPU."""
        if threads is not None:
            torch.set_num_threads(threads)
        from accelerate import PartialState

        on_cpu = device == "cpu" or not torch.cuda.is_available()
        self._state = PartialState(cpu=on_cpu)
        self.device: torch.device = torch.device("cpu") if on_cpu else self._state.device
        self.rank: int = self._state.process_index
        self.count: int = self._state.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, with the same bits in each."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The objects of all processes, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._state.wait_for_everyone()
