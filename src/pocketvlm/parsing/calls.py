"""The parameters of one tool call are parsed into parts of a JSON object while they stream.

One line break after the opening tag and one before the closing tag are syntax. A value may contain tags itself:

- `</parameter>` ends it only before another parameter, the end of the function, or the end of the answer.
- If the model forgot the closing tag, the value ends before `</function>` and `</tool_call>` if only a new call or the
  end of the answer follows, and before a line that begins another parameter of the schema that the call lacks so far.

Text before the parameters, tags with a broken name, and repeated parameters are dropped, because the JSON that was
emitted already cannot be changed.
"""

from __future__ import annotations

from pocketvlm.parsing.parts import AnswerPart, CallArguments, CallEnd
from pocketvlm.parsing.schemas import Signature, Types
from pocketvlm.parsing.tape import Tags, Tape
from pocketvlm.parsing.values import dump, is_text, to_json

CALL = "<tool_call>"
CALL_END = "</tool_call>"
FUNCTION = "<function="
FUNCTION_END = "</function>"
PARAMETER = "<parameter="
PARAMETER_END = "</parameter>"

_BETWEEN = Tags(PARAMETER, FUNCTION_END, CALL_END, CALL, FUNCTION)
_INSIDE = Tags(PARAMETER_END, FUNCTION_END, CALL_END, PARAMETER)
_ALL = Tags(PARAMETER, PARAMETER_END, FUNCTION, FUNCTION_END, CALL, CALL_END)


class Call:
    """Reads one call from a tape that is positioned after `<function=NAME>`."""

    def __init__(self, tape: Tape, index: int, signature: Signature) -> None:
        """index: the number of the call in the answer."""
        self.unfinished = False  # whether the answer ended inside this call
        self._tape = tape
        self._index = index
        self._signature = signature
        self._names: set[str] = set()
        self._opened = False
        self._value: _Value | None = None

    def step(self, out: list[AnswerPart]) -> bool:
        """Read on and append parts to `out`; returns True at the end of the call. Raises NeedMore."""
        if self._tape.final:  # an incomplete tag at the end is not text
            self._tape.text = self._tape.text[: _ALL.safe(self._tape.text, self._tape.at)]
        return self._between(out) if self._value is None else self._inside(self._value, out)

    def _between(self, out: list[AnswerPart]) -> bool:
        _, tag = self._tape.until(_BETWEEN)
        if tag == PARAMETER:
            name = self._tape.take_name(PARAMETER)
            if name is None:
                self._tape.at += len(PARAMETER)
                return False
            self._tape.take("\n")
            lead = ", " if self._opened else "{"
            self._value = _Value("" if name in self._names else f"{lead}{dump(name)}: ", self._signature.types(name))
            self._names.add(name)
            self._give(self._value.add(""), out)
            return False
        if tag or self._tape.final:
            self._tape.take(FUNCTION_END)
            self._close(bool(tag), out)
            return True
        return False

    def _inside(self, value: _Value, out: list[AnswerPart]) -> bool:
        text, tag = self._tape.until(_INSIDE)
        if text:
            self._give(value.add(text), out)
        elif not tag:
            self._give(value.cut(), out)
            self._close(False, out)
            return True
        elif self._ends(tag, value):
            self._give(value.end(), out)
            self._value = None
        else:
            self._tape.at += len(tag)
            self._give(value.add(tag), out)
        return False

    def _ends(self, tag: str, value: _Value) -> bool:
        """Whether the value ends at this tag, which comes next; if so, this reads past a `</parameter>`."""
        tape, start = self._tape, self._tape.at
        if tag == PARAMETER_END:
            tape.take(tag)
            tape.spaces()
            if tape.ended() or any(map(tape.sees, (PARAMETER, FUNCTION_END, CALL_END, CALL))):
                return True
            ends = False
        elif tag == PARAMETER:
            name = tape.take_name(tag)
            ends = value.line_begins and name is not None and name not in self._names and self._signature.knows(name)
        else:
            while tape.take(FUNCTION_END) or tape.take(CALL_END):
                tape.spaces()
            ends = tape.ended() or tape.sees(CALL)
        tape.at = start
        return ends

    def _give(self, text: str, out: list[AnswerPart]) -> None:
        if text:
            self._opened = True
            out.append(CallArguments(self._index, text))

    def _close(self, whole: bool, out: list[AnswerPart]) -> None:
        self.unfinished = not whole
        out += [CallArguments(self._index, "}" if self._opened else "{}"), CallEnd(self._index)]


class _Value:
    """Converts a value while it streams: strings are emitted at once, values of other types when they are complete."""

    def __init__(self, key: str, types: Types) -> None:
        """key: the JSON before the value; empty for a value that is dropped."""
        self.line_begins = True  # whether the next character begins a line
        self._key = key
        self._types = types
        self._is_text: bool | None = None
        self._parts: list[str] = []
        self._newline = ""  # the last character if it is a line break, which is syntax if the value ends here

    def add(self, text: str) -> str:
        """Add text; returns the JSON that is certain."""
        text = self._newline + text
        self._newline = "\n" if text.endswith("\n") else ""
        self.line_begins = bool(self._newline) or (self.line_begins and not text)
        text = text.removesuffix("\n")
        if self._is_text:
            return self._escaped(text)
        self._parts.append(text)
        if self._is_text is None:
            begin = "".join(self._parts)
            self._is_text = is_text(begin, self._types)
            if self._is_text:
                return self._key and f'{self._key}"{self._escaped(begin)}'
        return ""

    def end(self) -> str:
        """End the value; returns its remaining JSON."""
        if self._is_text:
            return self._key and '"'
        return self._key and self._key + to_json("".join(self._parts), self._types)

    def cut(self) -> str:
        """End a value that the answer cuts off: text stays, an incomplete value of another type is dropped."""
        return self._key and '"' if self._is_text else ""

    def _escaped(self, text: str) -> str:
        return self._key and dump(text)[1:-1]
