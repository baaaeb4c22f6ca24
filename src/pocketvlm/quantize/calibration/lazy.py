"""`LazyViews` makes prompts without patches, so that memory does not hold the pixels of a whole calibration set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pocketvlm.types import PendingView, Prompt, View


class LazyViews:
    """Prompts whose patches are made again when a view is loaded; memory holds those of one prompt."""

    def __init__(self) -> None:
        self._last: tuple[Callable[[], Prompt], Prompt] | None = None

    def prompt(self, make: Callable[[], Prompt]) -> Prompt:
        """What `make` returns, with pending views. `make` must return the same each time."""
        prompt, source = make(), _Source(self, make)
        views = tuple(
            PendingView(
                source, index, 0, view.rows, view.cols, view.downsample_mode, view.start, view.tokens, view.digest
            )
            if isinstance(view, View)
            else view
            for index, view in enumerate(prompt.views)
        )
        return replace(prompt, views=views)

    def again(self, make: Callable[[], Prompt]) -> Prompt:
        """The prompt with its patches."""
        if self._last is None or self._last[0] is not make:
            self._last = None  # before the next one needs memory
            self._last = make, make()
        return self._last[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """The views of one prompt (see `Pictures`)."""

    owner: LazyViews
    make: Callable[[], Prompt]

    def prepare(self, number: int, timeout: float = 0.0) -> bool:
        """Nothing can be prepared: loading decodes."""
        return True

    def load(self, number: int, part: int) -> View:
        """View `number` of the prompt."""
        return self.owner.again(self.make).views[number].load()
