"""These routes answer conversations and text in the interfaces of OpenAI, Anthropic and Ollama, and count tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.interfaces.endpoints import ENDPOINTS
from pocketvlm.interfaces.schemas.anthropic import CountRequest, MessagesRequest
from pocketvlm.interfaces.schemas.chat import ChatRequest, CompletionRequest
from pocketvlm.interfaces.schemas.common import AnswerRequest
from pocketvlm.interfaces.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest
from pocketvlm.interfaces.schemas.responses import ResponsesRequest
from pocketvlm.interfaces.usage import RequestOutput
from pocketvlm.server.replies import Json, Stream, whole
from pocketvlm.server.routes.shared import Route, accept

router = APIRouter(route_class=Route)


@router.post("/v1/chat/completions", summary="Answer a conversation", tags=["OpenAI"])
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Text and images in, an answer out, whole or as a stream of server-sent events."""
    return await _answer(body, request)


@router.post("/v1/completions", summary="Continue text", tags=["OpenAI"])
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Text or token ids in, what follows out; several prompts give choices one after the other."""
    return await _answer(body, request)


@router.post("/v1/responses", summary="Answer a conversation, as items", tags=["OpenAI"])
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Items in, items out, whole or as a stream of events."""
    return await _answer(body, request)


@router.post("/v1/responses/input_tokens", summary="Count the tokens of a conversation", tags=["OpenAI"])
async def input_tokens(body: ResponsesRequest, request: Request) -> Response:
    """How many tokens the prompt has, those of images and videos included."""
    context, record = accept(request, body)
    chosen = context.choose(body, record)
    (question,) = body.questions(record.ignored, context.builder.template)
    prompt, _ = await context.prompt_for(chosen.asks(question), record.owner)
    return Json({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})


@router.post("/v1/messages", summary="Answer a conversation", tags=["Anthropic"])
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Text and image blocks in, blocks out, whole or as a stream of events."""
    return await _answer(body, request)


@router.post("/v1/messages/count_tokens", summary="Count the tokens of a conversation", tags=["Anthropic"])
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """How many tokens the prompt has, those of images included."""
    context, record = accept(request, body)
    chosen = context.choose(body, record)
    prompt, _ = await context.prompt_for(chosen.asks(body.question(record.ignored)), record.owner)
    return Json({"input_tokens": len(prompt.ids)})


@router.post("/api/chat", summary="Answer a conversation", tags=["Ollama"])
async def chat(body: OllamaChatRequest, request: Request) -> Response:
    """Messages in, one JSON object a line out. Without messages: whether the model is loaded, which it is."""
    return await _answer(body, request)


@router.post("/api/generate", summary="Answer a question", tags=["Ollama"])
async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
    """A prompt in, one JSON object a line out. Without a prompt: whether the model is loaded, which it is."""
    return await _answer(body, request)


async def _answer(body: AnswerRequest, request: Request) -> Response:
    """The answer to a body, written by the renderer of its endpoint."""
    context, record = accept(request, body)
    chosen = context.choose(body, record)
    record.user, record.id = body.end_user, body.own_id or record.id
    questions = [chosen.asks(each) for each in body.questions(record.ignored, context.builder.template)]
    run = await context.ask(questions, record) if questions else None
    choices = run.choices if run is not None else ()
    fingerprint = context.builder.fingerprint_of(chosen.adapter)
    output = RequestOutput(record.id, chosen.name, context.tokenizer, fingerprint, choices, record.times)
    renderer = ENDPOINTS[record.route].renderer(output, body)
    if run is None:
        return Json(renderer.whole(()))
    if body.streams:
        return Stream(context, run, record, renderer.stream())
    return await whole(context, run, record, request, renderer.whole)
