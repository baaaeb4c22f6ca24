r"""`AnswerParser` splits a streamed answer into reasoning, text and tool calls (docs/model.md 6).

    <think>\n reasoning \n</think>\n\n text \n\n<tool_call>\n<function=NAME>\n<parameter=NAME>\nvalue\n</parameter>\n
    </function>\n</tool_call>

Rules for texts that can be read in two ways:

- Text without tags is not changed. Blanks around a call are part of its syntax (between two texts one run of them
  stays), and so are line breaks around the tags of reasoning.
- `<think>` opens reasoning only before any text. Reasoning that is not closed extends to the end of the answer.
- Without tools there are no calls: their tags are text.
- A call begins with `<tool_call>` and a complete `<function=NAME>`. The name need not be one of the tools, because the
  client can tell the model about unknown tools. Anything else that begins like a call is text. `<function=NAME>` alone
  also begins a call if it begins a line and a tool has that name, because models forget the tag before it.
- A call that has begun stays a call. If the answer ends inside it (`unfinished`), its JSON is closed: text is cut where
  the answer ends, and an incomplete value of another type is dropped.
- Calls inside reasoning are reasoning, unless the answer ends with them, with or without `</think>`. Then they are
  calls if they are complete and their tools exist. So reasoning is held back from `<tool_call>` on until that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pocketvlm.parsing.calls import CALL, CALL_END, FUNCTION, FUNCTION_END, Call
from pocketvlm.parsing.parts import AnswerPart, CallBegin, Content, Reasoning, merged
from pocketvlm.parsing.schemas import Signature, signatures
from pocketvlm.parsing.tape import BLANK, NeedMore, Tags, Tape

THINK = "<think>"
THINK_END = "</think>"

_NONE = Tags()
_CALLS = Tags(CALL, FUNCTION)
_THOUGHT = Tags(THINK_END)
_THOUGHT_OR_CALL = Tags(THINK_END, CALL)
_THOUGHT_OR_FUNCTION_END = Tags(THINK_END, FUNCTION_END)


class AnswerParser:
    """Parses the text of an answer chunk by chunk into parts. The joined result is the same at any split."""

    def __init__(
        self, *, tools: Sequence[Mapping[str, Any]] = (), thinking: bool = False, parallel: bool = True
    ) -> None:
        """Start at the beginning of an answer.

        tools: the tools that the model may call, in OpenAI's form. thinking: the prompt ended inside `<think>`.
        parallel: False ends the answer after its first call. Raises OptionError for a tool without a name.
        """
        self._tools = signatures(tools)
        self._parallel = parallel
        self._tape = Tape()
        self._out: list[AnswerPart] = []
        self._state: Callable[[], None] = self._thought_begins if thinking else self._begins
        self._done = False
        self._call: Call | None = None
        self._count = 0
        self._spoken = False  # whether there has been text
        self._called = False  # whether there has been a call since the last text
        self._space = ""  # blanks after the last text or call, which may belong to a call
        self._space_before = ""  # blanks before the calls
        self._newlines = ""  # line breaks of the reasoning that may be its last characters

    @property
    def done(self) -> bool:
        """Whether the answer is complete: after `finish`, or after the first call if only one is allowed."""
        return self._done

    @property
    def unfinished(self) -> bool:
        """Whether the answer ended inside its last call, so that its arguments may be incomplete."""
        return self._call is not None and self._call.unfinished

    def feed(self, text: str) -> list[AnswerPart]:
        """Read a chunk of text; returns the parts that are certain now."""
        self._tape.add(text)
        return self._run()

    def finish(self) -> list[AnswerPart]:
        """End the answer; returns the remaining parts."""
        self._tape.final = True
        return self._run()

    def _run(self) -> list[AnswerPart]:
        while not self._done:
            start = self._tape.at
            try:
                self._state()
            except NeedMore:
                self._tape.at = start
                break
        found, self._out = merged(self._out), []
        return found

    # Each state below reads as much as is certain, or raises NeedMore before it changes anything but the tape.

    def _begins(self) -> None:
        """State: no text so far."""
        space = self._tape.spaces()
        if not self._tape.ended() and self._tape.take(THINK):
            self._state = self._thought_begins
        else:
            self._say(space)
            self._state = self._text

    def _thought_begins(self) -> None:
        """State: skips line breaks before reasoning, and a `<think>` that repeats the prompt's."""
        self._line_breaks()
        if not self._tape.ended() and self._tape.take(THINK):
            self._line_breaks()
            self._tape.ended()
        self._state = self._thought

    def _thought(self) -> None:
        text, tag = self._tape.until(_THOUGHT_OR_CALL if self._tools else _THOUGHT)
        self._think(text)
        if tag == THINK_END:
            self._newlines = ""
            self._tape.take(tag)
            self._state = self._thought_ended
        elif tag == CALL:
            self._state = self._thought_calls
        elif self._tape.final:
            self._out.append(Reasoning(self._newlines))
            self._done = True

    def _thought_calls(self) -> None:
        """State: `<tool_call>` inside reasoning comes next."""
        start = self._tape.at
        if self._ends_with_calls():
            self._tape.text = self._tape.text.rstrip(BLANK).removesuffix(THINK_END)
            self._tape.at = start
            self._state = self._call_begins
        else:
            self._tape.at = start + len(CALL)
            self._think(CALL)
            self._state = self._thought

    def _thought_ended(self) -> None:
        self._line_breaks()
        self._tape.ended()
        self._state = self._begins

    def _text(self) -> None:
        text, tag = self._tape.until(_CALLS if self._tools else _NONE)
        self._say(text)
        if tag:
            self._state = self._call_begins
        elif self._tape.final:
            self._out.append(Content("" if self._called else self._space))
            self._done = True

    def _call_begins(self) -> None:
        """State: one of the tags that begin a call comes next."""
        tape, start = self._tape, self._tape.at
        wrapped = tape.take(CALL)
        tape.spaces()
        name = self._function()
        alone = self._called or not self._spoken or "\n" in self._space
        if name is None or not (wrapped or (alone and name in self._tools)):
            tag = CALL if wrapped else FUNCTION
            tape.at = start + len(tag)
            self._say(tag)
            self._state = self._text
            return
        self._space_before, self._space = self._space_before or self._space, ""
        self._called = True
        self._out.append(CallBegin(self._count, name))
        self._call = Call(tape, self._count, self._tools.get(name, Signature()))
        self._count += 1
        self._state = self._in_call

    def _in_call(self) -> None:
        if self._call is not None and self._call.step(self._out):
            self._state = self._call_ended
            self._done = not self._parallel

    def _call_ended(self) -> None:
        start = self._tape.at
        self._tape.spaces()
        if self._tape.ended() or not self._tape.take(CALL_END):
            self._tape.at = start
        self._state = self._text

    def _say(self, text: str) -> None:
        """Emit text, but hold back the blanks at its end, because a call may follow."""
        whole = self._space + text
        body = whole.rstrip(BLANK) if self._tools else whole
        self._space = whole[len(body) :]
        if not body:
            return
        if self._called:
            words = body.lstrip(BLANK)
            between = self._space_before or body[: len(body) - len(words)]
            body = between + words if self._spoken else words
            self._called, self._space_before = False, ""
        self._spoken = True
        self._out.append(Content(body))

    def _think(self, text: str) -> None:
        """Emit reasoning, but hold back the line breaks at its end."""
        whole = self._newlines + text
        body = whole.rstrip("\n")
        self._newlines = whole[len(body) :]
        self._out.append(Reasoning(body))

    def _ends_with_calls(self) -> bool:
        """Whether only complete calls of known tools follow, and perhaps the end of the reasoning."""
        tape = self._tape
        while tape.take(CALL):
            tape.spaces()
            if self._function() not in self._tools:
                return False
            _, tag = tape.until(_THOUGHT_OR_FUNCTION_END)
            if not tag and not tape.final:
                raise NeedMore
            if tag != FUNCTION_END:
                return False
            tape.take(FUNCTION_END)
            tape.spaces()
            tape.take(CALL_END)
            tape.spaces()
            if tape.ended():
                return True
        tape.take(THINK_END)
        tape.spaces()
        return tape.ended()

    def _function(self) -> str | None:
        """The name of the function if its tag comes next, or None."""
        start = self._tape.at
        name = self._tape.take_name(FUNCTION)
        if name is not None and any(blank in name for blank in BLANK):
            self._tape.at = start
            return None
        return name

    def _line_breaks(self) -> None:
        text = self._tape.text
        self._tape.at = len(text) - len(text[self._tape.at :].lstrip("\n"))
