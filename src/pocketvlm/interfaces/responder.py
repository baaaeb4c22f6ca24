"""`Responder` answers bodies of every interface without a server: for batch jobs, tests and tools."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Choice, Delta
from pocketvlm.api import Model
from pocketvlm.engine.driver import EngineDriver, Ticket
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.errors import OptionError, PocketVLMError
from pocketvlm.interfaces.endpoints import ENDPOINTS, Endpoint, read_body
from pocketvlm.interfaces.errors import ApiError, from_delta, from_failure
from pocketvlm.interfaces.fields import IgnoredFields
from pocketvlm.interfaces.media import ReadMedia, named_again, refuse, with_data
from pocketvlm.interfaces.pending import PendingAnswer
from pocketvlm.interfaces.preparation import RequestBuilder
from pocketvlm.interfaces.renderers.common import Renderer
from pocketvlm.interfaces.requests import Question
from pocketvlm.interfaces.usage import RequestOutput, RequestTimes, RequestUsage, prompts_of
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.types import Prompt

JsonBody = bytes | str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one body, with status 200, or an error with its HTTP status, in the form of the body's interface.

    ignored: paths of the fields that had no effect, separated by commas. usage, images: of an answer of the model;
    usage is None for an error.
    """

    status: int
    body: dict[str, Any]
    request_id: str
    ignored: str = ""
    usage: RequestUsage | None = None
    images: int = 0


class Responder:
    """Answers bodies as the server does. Safe to call from several threads, whose requests share the engine's steps.

    read_media: gets the bytes of URLs, paths and file ids; without it only data is taken. limits: of images and videos.
    strict: refuse fields that would be ignored. paths: a source without a scheme is a path, unless it is the base64
    text of a picture or video. max_n: maximum number of answers to one body. builder: of a server, which closes it;
    else options are those of `RequestBuilder`, such as names and default_max_tokens.
    """

    def __init__(
        self,
        model: Model,
        *,
        read_media: ReadMedia = refuse,
        limits: MediaLimits | None = None,
        strict: bool = False,
        paths: bool = False,
        max_n: int | None = None,
        builder: RequestBuilder | None = None,
        **options: Any,
    ) -> None:
        # The processor gets only data, so that only `read_media` opens files and connections.
        bounds = replace(limits or MediaLimits(), local_files=False, remote=False)
        self._driver = model.driver
        self._builder = builder or RequestBuilder(model, bounds, **options)
        self._owns_builder = builder is None
        self._read_media = read_media
        self._strict, self._paths, self._max_n = strict, paths, max_n

    @property
    def digest(self) -> str:
        """What answers depend on besides their bodies: the checkpoint and the type of its weights."""
        return self._builder.digest

    def close(self) -> None:
        """Release what guided answers needed; the model stays open."""
        if self._owns_builder:
            self._builder.close()

    def answer(self, path: str, body: JsonBody, request_id: str | None = None) -> Response:
        """The whole answer to a body of `path`, a key of ENDPOINTS; `stream: true` in the body is ignored.

        The response to a wrong request is its error. Raises OptionError for another path.
        """
        endpoint, answer_id = _endpoint(path), request_id or secrets.token_hex(12)
        ignored = IgnoredFields(self._strict)
        try:
            output, renderer = self._prepare(endpoint, body, answer_id, ignored, whole=True)
            answers = [Answer() for _ in output.choices]
            with _running(self._driver, output.choices) as deltas:
                for delta in deltas:
                    answers[delta.index].add(delta)
            return Response(200, renderer.whole(answers), output.id, str(ignored))
        except ApiError as error:
            return Response(error.status, error.body(endpoint.style, answer_id), answer_id, str(ignored))

    def submit(
        self,
        path: str,
        body: JsonBody,
        done: Callable[[Response], None],
        request_id: str | None = None,
        *,
        priority: int | None = None,
    ) -> PendingAnswer | None:
        """Like `answer`, without waiting for the engine: `done` gets the response, on the thread that steps the engine.

        This call fetches, decodes and tokenizes; None where that has failed and `done` was called already. priority:
        of the engine's requests, instead of the body's. Some thread must step the engine, such as `EngineDriver.start`.
        """
        endpoint, answer_id = _endpoint(path), request_id or secrets.token_hex(12)
        ignored = IgnoredFields(self._strict)

        def refused(error: ApiError) -> None:
            done(Response(error.status, error.body(endpoint.style, answer_id), answer_id, str(ignored)))

        def answered(answers: Sequence[Answer]) -> None:
            usage = output.usage() if output.choices else None
            images = sum(len(prompt.images) for prompt in prompts_of(output.choices))
            done(Response(200, renderer.whole(answers), output.id, str(ignored), usage, images))

        try:
            output, renderer = self._prepare(endpoint, body, answer_id, ignored, whole=True, priority=priority)
            return PendingAnswer(self._driver, output.choices, answered, refused)
        except PocketVLMError as error:
            refused(from_failure(error))
        except ApiError as error:
            refused(error)
        return None

    def stream(self, path: str, body: JsonBody, request_id: str | None = None) -> Generator[bytes, None, None]:
        """The answer as the chunks of a stream: server-sent events, or lines of JSON for Ollama's paths.

        This call checks and prepares the request; the engine runs it as the stream is read. A failure of the engine is
        the last chunk. Raises ApiError for a wrong request, OptionError for another path.
        """
        answer_id = request_id or secrets.token_hex(12)
        return self._events(*self._prepare(_endpoint(path), body, answer_id, IgnoredFields(self._strict)))

    def _events(self, output: RequestOutput, renderer: Renderer) -> Generator[bytes, None, None]:
        if not output.choices:
            raise OptionError("this body asks for no answer that could be streamed: use `answer`")
        stream = renderer.stream()
        with _running(self._driver, output.choices) as deltas:
            yield stream.head()
            try:
                for delta in deltas:
                    yield stream.delta(delta)
                yield stream.tail()
            except ApiError as error:
                yield stream.failure(error)

    def _prepare(
        self,
        endpoint: Endpoint,
        body: JsonBody,
        request_id: str,
        ignored: IgnoredFields,
        whole: bool = False,
        priority: int | None = None,
    ) -> tuple[RequestOutput, Renderer]:
        """The choices that are to run, and the renderer of their answers. Raises ApiError."""
        builder, times = self._builder, RequestTimes()
        try:
            request = read_body(endpoint.body, body)
            request.accept(ignored)
            if whole and request.stream:
                ignored.add("stream")
            chosen = builder.choose(request.requested_model, request.adapter)
            questions = [chosen.asks(each) for each in request.questions(ignored, builder.template)]
            if priority is not None:
                questions = [replace(question, priority=priority) for question in questions]
            count = sum(question.n for question in questions)
            if self._max_n is not None and count > self._max_n:
                raise ApiError(400, f"n={count} is more than the limit of {self._max_n}", param="n")
            choices = self._choices(questions, times)
        except PocketVLMError as error:
            raise from_failure(error) from None
        answer_id = request.own_id or request_id
        fingerprint = builder.fingerprint_of(chosen.adapter)
        output = RequestOutput(answer_id, chosen.name, builder.tokenizer, fingerprint, choices, times)
        return output, endpoint.renderer(output, request)

    def _choices(self, questions: Sequence[Question], times: RequestTimes) -> list[Choice]:
        builder = self._builder
        requests: list[Request] = []
        thinking = False
        for question in questions:
            prompt = self._prompt(question, times)
            thinking = builder.thinks(question, prompt)
            requests += builder.requests(question, prompt, builder.constraint(question, thinking))
        for request in requests:
            self._driver.engine.check(request)
        return [
            Choice(index, request, builder.answer_options(questions[0], thinking), times.began)
            for index, request in enumerate(requests)
        ]

    def _prompt(self, question: Question, times: RequestTimes) -> Prompt:
        self._builder.check_length(question)
        messages, names = None, dict[str, str]()
        if question.messages is not None:
            began = time.perf_counter()
            try:
                messages = with_data(question.messages, self._read_media, self._paths, names)
            except PocketVLMError as error:
                raise from_failure(error, question.places) from None
            times.fetch += time.perf_counter() - began
        try:
            prompt = self._builder.prompt(question, messages)
        except ApiError as error:
            error.message = named_again(error.message, names)
            raise
        times.media += prompt.decode_seconds
        times.preprocess += prompt.preprocess_seconds
        return prompt


def _endpoint(path: str) -> Endpoint:
    if path not in ENDPOINTS:
        raise OptionError(f"path={path[:80]!r} has no answers: give one of {', '.join(ENDPOINTS)}")
    return ENDPOINTS[path]


@contextmanager
def _running(driver: EngineDriver, choices: Sequence[Choice]) -> Iterator[Iterator[Delta]]:
    """Run choices together and give their deltas as they come. Leaving the block ends the choices.

    Reading the deltas raises ApiError when a choice fails.
    """
    arrived: deque[tuple[Choice, TokenEvent]] = deque()
    tickets: list[Ticket] = []

    def deliver(choice: Choice, event: TokenEvent) -> None:
        arrived.append((choice, event))

    def deltas() -> Iterator[Delta]:
        while any(choice.finish_reason is None for choice in choices):
            driver.wait(lambda: bool(arrived))
            choice, event = arrived.popleft()
            if choice.finish_reason is None:
                delta = choice.feed((event,))
                if (failed := from_delta(delta)) is not None:
                    raise failed
                if delta.finish_reason is not None:
                    driver.end(tickets[choice.index])  # its counts and times are final now
                yield delta

    try:
        for choice in choices:
            ticket = driver.submit(choice.request, partial(deliver, choice))
            tickets.append(ticket)
            choice.begin(ticket)
        yield deltas()
    finally:
        for ticket in tickets:
            driver.end(ticket)
