"""`Grammars` compiles and caches the grammars of one tokenizer; each sequence has its own matcher."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketvlm.errors import OptionError
from pocketvlm.guided import lark, vocabulary
from pocketvlm.guided.keywords import shown
from pocketvlm.guided.schemas import closed_schema
from pocketvlm.guided.tools import Written, tool_grammar
from pocketvlm.guided.trial import Trial, limits, return_memory
from pocketvlm.lru import LRU

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray

    from pocketvlm.processor.tokenizer import Tokenizer

# Limits of the cache: the bytes of all its grammars, as the trial measured them, and their number.
CACHED_BYTES = 48 << 20
CACHED = 64
MIN_SIZE = 256 << 10  # bytes; the measurement is too coarse for smaller grammars
# The allocator keeps memory that threads have freed until `return_memory` is called.
EVICTED_BYTES = 16 << 20
THOUGHT_END = "\n\n"


@dataclass(frozen=True, slots=True)
class Calls:
    """Tools (OpenAI's form) that an answer may call; parallel: several calls may follow each other."""

    tools: Sequence[Mapping[str, Any]]
    parallel: bool = True


class GrammarConstraint:
    """The state of one sequence in its grammar. Not to be shared between threads or sequences."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        """Take over a matcher that has seen no token."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._mask = np.zeros((vocab_size + 31) // 32, np.uint32)
        self._address = int(self._mask.ctypes.data)

    def mask(self) -> NDArray[np.uint32]:
        """uint32 [(vocab + 31) // 32]: bit t % 32 of word t // 32 says that token t may come next.

        The array is valid until the next call. End ids are in it only where the grammar is complete. Raises ValueError
        where the grammar cannot go on (it is too ambiguous for the limits).
        """
        self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        if self._matcher.is_error():
            raise ValueError(f"guided output cannot go on: {lark.explained(self._matcher.get_error())}")
        return self._mask

    def accept(self, token_id: int) -> None:
        """Advance by the sampled token. Raises ValueError for one that is not allowed; it then takes no more."""
        if not 0 <= token_id < self._vocab_size:
            raise ValueError(f"guided output: there is no token {token_id}")
        if not self._matcher.consume_token(token_id):
            text = lark.explained(self._matcher.get_error())
            raise ValueError(f"guided output: token {token_id} is not allowed here: {text}")

    @property
    def finished(self) -> bool:
        """Whether nothing but an end id may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def forced(self) -> list[int]:
        """The tokens that must come next, as the tokenizer would write them; often none. They are not accepted yet."""
        return list(self._matcher.compute_ff_tokens())


class Grammar:
    """A compiled grammar. `constraint` may be called from any thread."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, size: int) -> None:
        """Take over a matcher that stays at the beginning. size: about how many bytes it takes."""
        self.size = size
        self._matcher = matcher
        self._vocab_size = vocab_size

    def constraint(self) -> GrammarConstraint:
        """One more sequence at the beginning of the grammar: some 20 microseconds."""
        return GrammarConstraint(self._matcher.deep_copy(), self._vocab_size)


class Grammars:
    """Makes grammars for one tokenizer and caches the last ones by content. Safe to share between threads.

    Every method raises OptionError for what it cannot do, naming the keyword or value, and CheckpointError where the
    tokenizer lacks a control token that the answer needs. `thinking`: the prompt ended inside `<think>`, so any text up
    to the control token `</think>` and an empty line come before the answer. `calls`: the answer may be calls of tools
    instead.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int], vocab_size: int) -> None:
        """For a model with vocab_size ids (which may be more than have a token); end_ids end an answer.

        Cheap: the library and its form of the vocabulary are loaded by `prepare`, at the latest for the first grammar.
        """
        self._tokenizer = tokenizer
        self._end_ids = list(end_ids)
        self._vocab_size = vocab_size
        self._built: LLTokenizer | None = None
        self._trial = Trial()
        self._cache: LRU[bytes, Grammar] = LRU(size=lambda grammar: grammar.size)
        self._evicted = 0  # bytes since memory was last returned to the system
        self._building = threading.Lock()
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Load what every grammar needs: about 0.6 s of one processor for 248 000 ids, once. Raises OptionError."""
        self._vocabulary()

    def close(self) -> None:
        """End the helper process. Grammars that exist go on working."""
        self._trial.close()

    def json_schema(
        self, schema: object, *, thinking: bool = False, pretty: bool = False, calls: Calls | None = None
    ) -> Grammar:
        """JSON text that a schema (draft 2020-12, as parsed JSON) allows, properties in the schema's order.

        OpenAI's strict subset is covered. Objects with `properties` are closed and blanks are bounded: see `schemas.py`
        and `lark.json_rule`. Refused: not, if, uniqueItems, contains, propertyNames, dependent..., unevaluated...,
        formats that are not known, oneOf with schemas that overlap. Names that `additionalProperties` allows may come
        twice.
        """
        what = "json schema"

        def write() -> Written:
            return Written(lark.json_rule(closed_schema(schema, what), what, pretty=pretty))

        return self._grammar(lark.dump([what, pretty, schema], what, lark.SCHEMA_BYTES), write, thinking, what, calls)

    def json_object(self, *, thinking: bool = False, pretty: bool = False, calls: Calls | None = None) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"}, thinking=thinking, pretty=pretty, calls=calls)

    def regex(self, pattern: str, *, thinking: bool = False, calls: Calls | None = None) -> Grammar:
        """Text that a regular expression matches as a whole: Rust's dialect, `\\d` and `\\w` ASCII, no look-around."""
        request = lark.dump(["regex", pattern], "regex", lark.REGEX_BYTES)
        what = f"regex {shown(pattern)}"
        return self._grammar(request, lambda: Written("R", f"R: /{lark.regex(pattern)}/"), thinking, what, calls)

    def choice(self, choices: Sequence[str], *, thinking: bool = False, calls: Calls | None = None) -> Grammar:
        """One of some texts, exactly."""
        if not choices or isinstance(choices, str) or not all(isinstance(text, str) for text in choices):
            raise OptionError(f"choice must be a list of texts with at least one, not {shown(choices)}")
        request = lark.dump(["choice", *choices], "choice", lark.CHOICE_BYTES)
        texts = " | ".join(map(lark.literal, dict.fromkeys(choices)))
        return self._grammar(request, lambda: Written("C", f"C: {texts}"), thinking, "choice", calls)

    def tool_calls(self, calls: Calls, *, required: bool, name: str | None = None, thinking: bool = False) -> Grammar:
        """Calls of tools as the chat template writes them; name: only that one, and it is required.

        Without required, any text may come first or alone, and only calls of strict functions keep to their schemas.
        Nothing comes after calls. See `tools.py` for what arguments look like.
        """
        return self._grammar(
            f"{required} {name} {self._request(calls)}",
            lambda: tool_grammar(
                calls.tools,
                required=required,
                name=name,
                parallel=calls.parallel,
                strict_only=not required and name is None,
            ),
            thinking,
            "tools",
        )

    def _request(self, calls: Calls) -> str:
        """Calls as a part of a cache key. Raises CheckpointError where the tokenizer cannot write any."""
        for marker in ("<tool_call>", "</tool_call>"):
            self._tokenizer.token_id(marker)
        return lark.dump(["tools", calls.parallel, *calls.tools], "tools", lark.SCHEMA_BYTES)

    def _vocabulary(self) -> LLTokenizer:
        with self._building:
            if self._built is None:
                self._built = vocabulary.build(self._tokenizer, self._end_ids, self._vocab_size)
            return self._built

    def _grammar(
        self, request: str, write: Callable[[], Written], thinking: bool, what: str, calls: Calls | None = None
    ) -> Grammar:
        """The cached grammar of a request, or a new one, which `write` writes."""
        also = self._request(calls) if calls is not None and calls.tools else ""
        key = hashlib.sha256(f"{thinking} {request} {also}".encode()).digest()
        with self._lock:
            if (found := self._cache.use(key)) is not None:
                return found
        written = write()
        if calls is not None and also:
            written |= tool_grammar(calls.tools, required=True, parallel=calls.parallel, strict_only=True)
        grammar = self._compile(written, thinking, what)
        self._add(key, grammar)
        return grammar

    def _compile(self, written: Written, thinking: bool, what: str) -> Grammar:
        """Try a grammar, then compile it here. Its parts are tried alone to find the part that is refused or empty."""
        built = self._vocabulary()
        thought, begin = "", ""
        if thinking:
            self._tokenizer.token_id("</think>")
            thought, begin = (
                f"T: {lark.without('</think>', '<tool_call>')}\n",
                f"T </think> {lark.literal(THOUGHT_END)} ",
            )
        text = f"%llguidance {{}}\nstart: {begin}answer\n{thought}answer: {written.answer}\n{written.rules}\n"
        if len(text.encode()) > lark.GRAMMAR_BYTES:
            raise OptionError(f"{what}: the grammar has more than {lark.GRAMMAR_BYTES} bytes; make it smaller")
        verdict = self._trial.verdict(text)
        for part in written.parts:
            if not verdict.complaint and not part.may_be_empty:
                continue
            if own := self._trial.verdict(f"%llguidance {{}}\nstart: {part.rule}\n").complaint:
                raise OptionError(f"{part.what}: {lark.explained(own)}")
        if verdict.complaint:
            raise OptionError(f"{what}: {lark.explained(verdict.complaint)}")
        return Grammar(self._matcher(built, text, what), self._vocab_size, max(verdict.size, MIN_SIZE))

    def _add(self, key: bytes, grammar: Grammar) -> None:
        """Cache a grammar and evict the least recently used ones; now and then return their memory to the system."""
        with self._lock:
            self._cache.put(key, grammar)
            while len(self._cache) > 1 and (len(self._cache) > CACHED or self._cache.total > CACHED_BYTES):
                self._evicted += self._cache.pop_oldest()[1].size
            due = self._evicted > EVICTED_BYTES
            if due:
                self._evicted = 0
        if due:
            return_memory()

    def _matcher(self, built: LLTokenizer, text: str, what: str) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(built, text, log_level=0, limits=limits())  # type: ignore[arg-type]
        # Compute the first mask once for all sequences: copies of the matcher keep it.
        matcher.compute_bitmask()
        if matcher.is_error():
            raise OptionError(f"{what}: {lark.explained(matcher.get_error())}")
        return matcher
