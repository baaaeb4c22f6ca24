"""`create_app` assembles the application: routes, error handlers, middleware, start and shutdown."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from pocketvlm import __version__
from pocketvlm.interfaces.errors import ApiError, from_validation
from pocketvlm.server.context import Context
from pocketvlm.server.errors import internal
from pocketvlm.server.middleware import Middleware, error_response
from pocketvlm.server.routes import (
    adapters,
    answers,
    batches,
    docs,
    files,
    message_batches,
    ollama_models,
    page,
    previews,
    service,
    tokens,
)

_ABOUT = """MiniCPM-V behind the interfaces of OpenAI, Anthropic and Ollama. Fields that are not listed are refused if
they would change the answer; the header x-ignored-fields names all others. Errors have the form that the clients of
each interface read."""


def create_app(context: Context) -> tuple[FastAPI, ASGIApp]:
    """The FastAPI application, and the same inside its middleware, which is what a server runs."""
    prefix = context.settings.root_path
    app = FastAPI(
        title="pocketvlm",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": prefix}] if prefix else None,
    )
    app.state.context = context
    modules = (answers, ollama_models, tokens, adapters, files, previews, batches, message_batches, service, docs, page)
    for module in modules:
        app.include_router(module.router)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _internal)
    return app, Middleware(app, context)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(request, error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told: dict[int, str] = {
        404: f"there is nothing at {request.url.path[:200]!r}: see /docs",
        405: f"{request.method} is not possible at {request.url.path[:200]!r}: see /docs",
    }
    message = told.get(error.status_code, str(error.detail))
    return _answer(request, ApiError(error.status_code, message, headers=error.headers))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(request, from_validation(list(error.errors())))


async def _internal(request: Request, error: Exception) -> Response:
    """The answer; the error itself goes on to the middleware, which writes it to the log."""
    return _answer(request, internal(request.scope["record"].id))


def _answer(request: Request, error: ApiError) -> Response:
    record: Any = request.scope["record"]
    record.error = error.code or error.message[:200]
    return error_response(error, request.scope["path"], record.id)
