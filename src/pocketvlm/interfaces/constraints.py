"""The grammar of a question is chosen here, with the position in the answer from which it applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.interfaces.requests import Guide, Question
from pocketvlm.types import Constraint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketvlm.guided import Grammar, Grammars

Constrain = Callable[[], Constraint]


@dataclass(frozen=True, slots=True)
class Ends:
    """The ids that end the reasoning and the answer, and the number of ids in the vocabulary."""

    thought: int
    answer: tuple[int, ...]
    vocab_size: int

    def mask(self, allowed: int | None) -> NDArray[np.uint32]:
        """A constraint's mask that allows one id, or with None all but those that end the answer."""
        words = np.full((self.vocab_size + 31) // 32, 0 if allowed is not None else 0xFFFFFFFF, dtype=np.uint32)
        for token in self.answer if allowed is None else (allowed,):
            words[token // 32] ^= np.uint32(1 << token % 32)
        return words


class Thinking:
    """Ends the reasoning after `budget` tokens; then another constraint applies to the answer, if there is one."""

    def __init__(self, inner: Constraint | None, ends: Ends, budget: int) -> None:
        self._inner = inner
        self._ends = ends
        self._left = budget
        self._thinking = True
        # The reasoning may end the answer only if the answer has no constraint.
        self._free = None if inner is None else ends.mask(None)

    def mask(self) -> NDArray[np.uint32] | None:
        """Every token while the model may think; when it no longer may, the end of thinking."""
        if not self._thinking:
            return None if self._inner is None else self._inner.mask()
        return self._free if self._left > 0 else self._ends.mask(self._ends.thought)

    def accept(self, token_id: int) -> None:
        """Advance by the sampled token."""
        if not self._thinking:
            if self._inner is not None:
                self._inner.accept(token_id)
            return
        self._thinking = token_id != self._ends.thought
        self._left -= 1

    @property
    def finished(self) -> bool:
        """Nothing but an end id may follow."""
        return not self._thinking and self._inner is not None and self._inner.finished


def needs_grammar(question: Question) -> bool:
    """Whether a question asks for a form that only a grammar can guarantee."""
    tools = question.tools
    strict = any(tool.get("function", {}).get("strict") is True for tool in tools.offered)
    return question.guide is not None or (bool(tools.offered) and (tools.choice in ("required", "named") or strict))


def constraint_for(
    grammars: Callable[[], Grammars], question: Question, thinking: bool, ends: Ends
) -> Constrain | None:
    """A function that makes a new constraint for each choice; None if no constraint is needed.

    Compiles a grammar, which takes time: call it in a thread. Raises OptionError.
    """
    budget = question.thinking_budget if thinking else None
    make: Constrain | None = None
    if needs_grammar(question):
        # A grammar allows reasoning before the answer; with a budget, `Thinking` counts its tokens instead.
        make = _grammar(grammars(), question, thinking and budget is None).constraint
    if budget is None:
        return make
    return lambda: Thinking(make() if make is not None else None, ends, budget)


def _grammar(grammars: Grammars, question: Question, thinking: bool) -> Grammar:
    from pocketvlm.guided import Calls

    guide, tools = question.guide, question.tools
    calls = Calls(tools.offered, tools.parallel)
    match guide:
        case None:
            required = tools.choice in ("required", "named")
            return grammars.tool_calls(calls, required=required, name=tools.name, thinking=thinking)
        case Guide("json_object", _, pretty):
            return grammars.json_object(thinking=thinking, pretty=pretty, calls=calls)
        case Guide("json_schema", schema, pretty):
            return grammars.json_schema(schema, thinking=thinking, pretty=pretty, calls=calls)
        case Guide("regex", pattern):
            return grammars.regex(pattern, thinking=thinking, calls=calls)
        case Guide("choice", choices):
            return grammars.choice(choices, thinking=thinking, calls=calls)
    raise AssertionError(guide)
