"""Pages of KV cache and slots of recurrent state: who holds which, counted in bytes, grown on demand up to a limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketvlm.backends.ops import Ints
from pocketvlm.config import TextConfig
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import LayerState, copy_states

PAGE_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """The pages (int32 [n]) and the slot that one sequence owns from admission to its end."""

    pages: Ints
    slot: int


def page_bytes(config: TextConfig, page_size: int = PAGE_SIZE) -> int:
    """Bytes of one page over all full-attention layers, float32."""
    full = config.layer_types.count("full_attention")
    return full * 2 * page_size * config.num_key_value_heads * config.head_dim * 4


def slot_bytes(config: TextConfig) -> int:
    """Bytes of one slot over all linear-attention layers, float32."""
    linear = config.layer_types.count("linear_attention")
    conv = (config.linear_conv_kernel_dim - 1) * config.conv_dim
    delta = config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim
    return linear * (conv + delta) * 4


class Memory:
    """Owns the state arrays of all layers. A reservation covers a sequence's whole possible length."""

    def __init__(self, model: MiniCPMV, limit: int, page_size: int = PAGE_SIZE) -> None:
        self.model = model
        self.limit = limit
        self.page_size = page_size
        self.page_bytes = page_bytes(model.config.text, page_size)
        self.slot_bytes = slot_bytes(model.config.text)
        self._capacity = (0, 0)
        self._free_pages: list[int] = []
        self._free_slots: list[int] = []
        self.states: tuple[LayerState, ...] = ()

    def pages_for(self, tokens: int) -> int:
        """Pages that hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    def bytes_for(self, tokens: int) -> int:
        """Bytes that one sequence of `tokens` tokens needs."""
        return self.pages_for(tokens) * self.page_bytes + self.slot_bytes

    @property
    def used(self) -> int:
        """Bytes reserved by sequences now."""
        pages, slots = self._capacity
        held = (pages - len(self._free_pages)) * self.page_bytes
        return held + (slots - len(self._free_slots)) * self.slot_bytes

    def can_reserve(self, tokens: int) -> bool:
        """Whether a sequence of `tokens` tokens fits beside those that run."""
        return self.used + self.bytes_for(tokens) <= self.limit

    def reserve(self, tokens: int) -> Reservation:
        """Take pages and a slot for `tokens` tokens; ask `can_reserve` first."""
        if not self.can_reserve(tokens):
            raise ValueError(f"{tokens} tokens do not fit: ask can_reserve first")
        needed = self.pages_for(tokens)
        self._grow(max(0, needed - len(self._free_pages)), int(not self._free_slots))
        pages = [self._free_pages.pop() for _ in range(needed)]
        return Reservation(np.array(pages, dtype=np.int32), self._free_slots.pop())

    def release(self, reservation: Reservation) -> None:
        """Give pages and slot back."""
        self._free_pages.extend(int(page) for page in reservation.pages)
        self._free_slots.append(reservation.slot)

    def _grow(self, pages: int, slots: int) -> None:
        if not pages and not slots:
            return
        old_pages, old_slots = self._capacity
        self._capacity = (old_pages + pages, old_slots + slots)
        states = self.model.new_states(self._capacity[0], self.page_size, self._capacity[1])
        if self.states:
            copy_states(self.states, states)
        self.states = states
        self._free_pages.extend(range(old_pages, old_pages + pages))
        self._free_slots.extend(range(old_slots, old_slots + slots))
