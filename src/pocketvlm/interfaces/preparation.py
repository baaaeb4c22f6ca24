"""`RequestBuilder` turns a `Question` into requests of the engine: prompt, sampling, constraint, answer options."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pocketvlm import __version__
from pocketvlm.answers.choice import AnswerOptions, opens_reasoning
from pocketvlm.api import Model
from pocketvlm.api.adapters import AdapterInfo
from pocketvlm.engine.fitting import ways_to_fit
from pocketvlm.engine.request import Request
from pocketvlm.errors import PocketVLMError
from pocketvlm.interfaces.constraints import Constrain, Ends, constraint_for, needs_grammar
from pocketvlm.interfaces.errors import ApiError, from_failure
from pocketvlm.interfaces.prompts import continued, raw_prompt
from pocketvlm.interfaces.requests import Question
from pocketvlm.options.load import check_adapter_name, own_names, served_name
from pocketvlm.options.request import over_defaults
from pocketvlm.parsing import AnswerParser
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.types import Prompt, SamplingParams

if TYPE_CHECKING:
    from pocketvlm.guided import Grammars

_CHARACTERS_A_TOKEN = 24  # far more than any real text has; longer text is refused before the tokenizer works on it


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What answers a request. name: as the answer shows it. adapter: None for the model itself."""

    name: str
    adapter: str | None = None

    def asks(self, question: Question) -> Question:
        """The same question to this model or adapter."""
        return question if self.adapter is None else dataclasses.replace(question, adapter=self.adapter)


class RequestBuilder:
    """Builds the engine's requests to one model. Methods may be called from any thread; each raises ApiError.

    limits: of images and videos. names: what requests may call the model; the first is the one that answers show.
    max_model_len: maximum tokens of prompt and answer. default_max_tokens, normalize_newlines: for requests that do not
    say. runaway_guard: end answers that repeat themselves.
    """

    def __init__(
        self,
        model: Model,
        limits: MediaLimits,
        *,
        names: Sequence[str] = (),
        max_model_len: int | None = None,
        default_max_tokens: int = 4096,
        normalize_newlines: bool = False,
        runaway_guard: bool = True,
    ) -> None:
        self.model = model
        self.limits = limits
        self.names = tuple(names) or (served_name(model.name),)
        for name in model.adapters:
            self.check_adapter_name(name)
        context = model.checkpoint.model.text.max_position_embeddings
        self.max_model_len = min(max_model_len or context, context)
        self.weights = str(model.ops.describe().get("weights", "")).partition(" ")[0]
        content = f"{model.checkpoint.fingerprint} {self.weights}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self._fingerprint = _digest((__version__, self.digest, sorted(model.ops.describe().items())))
        self.processor = model.processor
        self.tokenizer = model.processor.tokenizer
        self.template = model.processor.template.source
        self._default_max_tokens = default_max_tokens
        self._normalize_newlines = normalize_newlines
        self._runaway_guard = runaway_guard
        self._grammars: Grammars | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the process that compiles grammars."""
        if self._grammars is not None:
            self._grammars.close()

    def choose(self, model: str | None, adapter: str | None = None) -> ModelChoice:
        """What the fields `model` and `adapter` of a request name: the model, if both are left out.

        Raises ApiError 404 for an unknown name, 400 for two adapters.
        """
        named = self._found(model, "model") if model else None
        chosen = self._found(adapter, "adapter") if adapter else None
        if chosen is None:
            return named or ModelChoice(self.names[0])
        if chosen.adapter is None:
            raise self._unknown(str(adapter), "adapter")
        if named is not None and named.adapter not in (None, chosen.adapter):
            raise ApiError(
                400, f"model={model!r} and adapter={adapter!r} are two adapters: give one of them", param="adapter"
            )
        return chosen

    def _found(self, name: str, field: str) -> ModelChoice:
        """The model or adapter of a name, with or without Ollama's tag."""
        for each in (name, name.removesuffix(":latest")):
            if each in self.names:
                return ModelChoice(name)
            if each in self.model.adapters:
                return ModelChoice(name, each)
        raise self._unknown(name, field)

    def _unknown(self, name: str, field: str) -> ApiError:
        known = [*self.names, *self.model.adapters] if field == "model" else list(self.model.adapters)
        way = f"it is not served here, use {', '.join(known)}" if known else "no adapter is loaded, leave it out"
        return ApiError(404, f"{field} {name[:100]!r} not found: {way}", param=field, code=f"{field}_not_found")

    def check_adapter_name(self, name: str, label: str | None = None) -> None:
        """Raise OptionError for a name that no adapter may have here."""
        check_adapter_name(name, (*self.names, *own_names(self.model.name)), label)

    def adapter(self, name: str | None) -> AdapterInfo | None:
        """The adapter of a name. Raises ApiError 404 for one that was removed after a request had named it."""
        if name is None:
            return None
        info = self.model.adapters.get(name)
        if info is None:
            raise self._unknown(name, "adapter")
        return info

    def check_loaded(self, requests: Sequence[Request]) -> None:
        """Raise ApiError 404 if an adapter of requests was removed after they were made."""
        for request in requests:
            self.adapter(request.adapter)

    def digest_of(self, info: AdapterInfo | None) -> str:
        """A hex digest of the weights, and of an adapter's values."""
        return self.digest if info is None else hashlib.sha256(f"{self.digest} {info.digest}".encode()).hexdigest()

    def fingerprint_of(self, adapter: str | None) -> str:
        """What answers of the model, or of an adapter, with the same seed have in common."""
        info = self.model.adapters.get(adapter) if adapter is not None else None
        return self._fingerprint if info is None else _digest((self._fingerprint, info.digest))

    def check_length(self, question: Question) -> None:
        """Refuse text that cannot fit, before any work on it."""
        limit = self.max_model_len * _CHARACTERS_A_TOKEN
        length = len(question.text or "")
        for message in question.messages or ():
            content = message.get("content") if isinstance(message, Mapping) else None
            if isinstance(content, str):
                length += len(content)
            elif isinstance(content, list):
                texts = (part.get("text") for part in content if isinstance(part, Mapping))
                length += sum(len(text) for text in texts if isinstance(text, str))
        given = len(question.ids or question.before)
        if length > limit or given > self.max_model_len:
            count = f"{given} tokens" if given > self.max_model_len else f"{length} characters"
            raise ApiError(
                400,
                f"{count} of text cannot fit into the {self.max_model_len} tokens that this server's context holds",
                code="context_length_exceeded",
            )

    def prompt(self, question: Question, messages: Sequence[Any] | None = None) -> Prompt:
        """Ids and views of a question. messages: its messages with the data of their media. Decoding takes time."""
        checkpoint = self.model.checkpoint
        size = checkpoint.model.text.vocab_size
        try:
            if question.ids is not None:
                return raw_prompt(question.ids, "(ids)", self.tokenizer, size)
            if question.messages is None:
                text = question.text or ""
                return raw_prompt(self.tokenizer.encode_template(text), text, self.tokenizer, size)
            tools = list(question.tools.offered) or None
            given = question.messages if messages is None else messages
            info = self.adapter(question.adapter)
            options = over_defaults({} if info is None else info.options, question.options)
            prompt = self.processor(given, tools=tools, limits=self.limits, **options)
            if question.before:
                return continued(question.before, prompt, self.tokenizer, checkpoint.eos_token_ids, size)
            return prompt
        except PocketVLMError as error:
            raise from_failure(error, question.places) from None

    def thinks(self, question: Question, prompt: Prompt) -> bool:
        """Whether the answer begins with reasoning, which is then separated from its text."""
        return question.chat and opens_reasoning(prompt)

    def needs_constraint(self, question: Question, thinking: bool) -> bool:
        """Whether `constraint` has anything to do."""
        return needs_grammar(question) or (question.thinking_budget is not None and thinking)

    def constraint(self, question: Question, thinking: bool) -> Constrain | None:
        """A function that makes the constraint of each choice, or None. Compiling a grammar takes time."""
        if not self.needs_constraint(question, thinking):
            return None
        checkpoint = self.model.checkpoint
        try:
            thought = self.tokenizer.token_id("</think>") if thinking else -1
            ends = Ends(thought, checkpoint.eos_token_ids, checkpoint.model.text.vocab_size)
            return constraint_for(self.grammars, question, thinking, ends)
        except PocketVLMError as error:
            failure = from_failure(error)
            if question.guide is not None and failure.param is None:
                field = question.guide.field
                raise ApiError(failure.status, f"{field}: {failure.message}", param=field, code=failure.code) from None
            raise failure from None

    def grammars(self) -> Grammars:
        """The compiler of grammars; loads its library on first use. Raises OptionError if the library is missing."""
        with self._lock:
            if self._grammars is None:
                from pocketvlm.guided import Grammars

                checkpoint = self.model.checkpoint
                self._grammars = Grammars(self.tokenizer, checkpoint.eos_token_ids, checkpoint.model.text.vocab_size)
            return self._grammars

    def requests(self, question: Question, prompt: Prompt, constraint: Constrain | None) -> list[Request]:
        """The engine's requests, one for each choice; choice i has seed + i."""
        params = self.sampling(question, prompt)
        ends = self.model.checkpoint.eos_token_ids
        seeds = [None if params.seed is None else params.seed + number for number in range(question.n)]
        return [
            Request(
                prompt, dataclasses.replace(params, seed=seed), ends, question.priority, constraint, question.adapter
            )
            for seed in seeds
        ]

    def sampling(self, question: Question, prompt: Prompt) -> SamplingParams:
        """How to sample: what the request says, else what the checkpoint says."""
        total = len(prompt.ids)
        room = self.max_model_len - total
        if room < 1:
            raise ApiError(
                400,
                f"the prompt has {total} tokens but this server's context holds {self.max_model_len}: "
                f"{ways_to_fit(prompt, self.max_model_len - 1)}",
                param="messages" if question.messages is not None else "prompt",
                code="context_length_exceeded",
            )
        if question.context_limit is not None and total < question.context_limit:
            room = min(room, question.context_limit - total)
        given = dict(question.sampling)
        max_tokens = given.pop("max_tokens", self._default_max_tokens)
        if max_tokens is None:
            max_tokens = max(1, self.model.engine.memory.max_tokens - total)
        min_tokens = given.pop("min_tokens", 0)
        if min_tokens > max_tokens:
            raise ApiError(
                400,
                f"min_tokens={min_tokens} is more than max_tokens={max_tokens}: lower one of them",
                param="min_tokens",
            )
        # Neither limit can be met beyond the end of the context.
        limits = {"max_tokens": min(max_tokens, room), "min_tokens": min(min_tokens, room)}
        try:
            return dataclasses.replace(self.model.sampling_defaults, **given, **limits)
        except PocketVLMError as error:
            raise from_failure(error) from None

    def answer_options(self, question: Question, thinking: bool) -> AnswerOptions:
        """How to read the tokens of the answers to a question."""
        tools = question.tools
        normalize = question.normalize_newlines
        return AnswerOptions(
            self.tokenizer,
            partial(AnswerParser, tools=tools.offered, thinking=thinking, parallel=tools.parallel)
            if question.chat
            else None,
            thinking,
            self._normalize_newlines if normalize is None else normalize,
            question.skip_special_tokens,
            self._runaway_guard and not question.sampling.get("ignore_eos"),
        )


def _digest(parts: tuple[object, ...]) -> str:
    """A fingerprint of parts, as answers show it."""
    return f"fp_{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"
