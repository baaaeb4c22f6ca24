"""Health, version, models, metrics: what is asked about the server itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm import __version__
from pocketvlm.server.context import Context
from pocketvlm.server.errors import ApiError
from pocketvlm.server.metrics import CONTENT_TYPE
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, context_of

router = APIRouter(route_class=Route, tags=["Service"])

CAPABILITIES = ("completion", "vision", "tools", "thinking", "structured_outputs")


@router.get("/health", summary="Whether the process lives, and how busy it is")
async def health(request: Request) -> Response:
    """Needs no key."""
    context = context_of(request)
    return Json(
        {
            "status": "draining" if context.draining else "healthy",
            "concurrency": context.admission.inside,
            "max_concurrency": context.settings.max_seqs,
        }
    )


@router.get("/health/ready", summary="Whether new requests are taken")
async def ready(request: Request) -> Response:
    """200 if so, 503 while the server is shutting down. Needs no key."""
    context = context_of(request)
    return Json({"ready": not context.draining}, status_code=503 if context.draining else 200)


@router.get("/version", summary="The version of pocketvlm")
async def version() -> Response:
    """Its name is `version`."""
    return Json({"version": __version__})


@router.get("/metrics", summary="Figures for Prometheus")
async def metrics(request: Request) -> Response:
    """In Prometheus' text form."""
    return Response(context_of(request).metrics.page(), media_type=CONTENT_TYPE)


@router.get("/v1/models", summary="The model under each of its names")
@router.get("/v1/models/", include_in_schema=False)
async def models(request: Request) -> Response:
    """One entry a name."""
    context = context_of(request)
    return Json({"object": "list", "data": [model_object(context, name) for name in context.names]})


@router.get("/v1/models/{name:path}", summary="One model")
async def model(name: str, request: Request) -> Response:
    """What it can do and how much it holds."""
    context = context_of(request)
    if name not in context.names:
        raise ApiError(404, f"model {name[:100]!r} is not served here", param="model", code="model_not_found")
    return Json(model_object(context, name))


def model_object(context: Context, name: str) -> dict[str, Any]:
    """OpenAI's model object, with what one has to know."""
    return {
        "id": name,
        "object": "model",
        "created": context.created,
        "owned_by": "pocketvlm",
        "root": context.model.name,
        "max_model_len": context.max_model_len,
        "capabilities": list(CAPABILITIES),
        "modalities": {"input": ["text", "image", "video"], "output": ["text"]},
    }
