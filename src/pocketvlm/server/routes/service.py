"""These routes report health, version, models and metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm import __version__
from pocketvlm.api.adapters import AdapterInfo
from pocketvlm.server.context import Context
from pocketvlm.server.metrics import CONTENT_TYPE
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, context_of

router = APIRouter(route_class=Route, tags=["Service"])

_VERSION = "anthropic-version"
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


_LIMITS = (
    "max_seqs", "max_queue", "max_n", "default_max_tokens", "max_images", "max_media_bytes", "max_pixels", "max_videos",
    "max_video_frames", "max_video_seconds", "max_visual_tokens", "max_files", "max_files_bytes", "file_seconds",
    "max_batch_bytes", "max_batches_bytes", "batch_file_seconds",
    "max_body_bytes", "queue_timeout", "request_timeout", "fetch_media",
)  # fmt: skip


@router.get("/limits", summary="The server's limits")
async def limits(request: Request) -> Response:
    """Sizes in bytes and times in seconds, by the names of the options of `pocketvlm serve`."""
    context = context_of(request)
    return Json({"max_model_len": context.max_model_len, **{name: getattr(context.settings, name) for name in _LIMITS}})


@router.get("/metrics", summary="Figures for Prometheus")
async def metrics(request: Request) -> Response:
    """In Prometheus' text form."""
    return Response(context_of(request).metrics.page(), media_type=CONTENT_TYPE)


@router.get("/v1/models", summary="The model under each of its names, and its adapters")
@router.get("/v1/models/", include_in_schema=False)
async def models(request: Request) -> Response:
    """One entry a name, in the form of OpenAI, or of Anthropic for requests with the header anthropic-version."""
    context = context_of(request)
    data = [_object_for(request)(context, name, info) for name, info in context.listed()]
    if _VERSION not in request.headers:
        return Json({"object": "list", "data": data})
    return Json({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})


@router.get("/v1/models/{name:path}", summary="One model or adapter")
async def model(name: str, request: Request) -> Response:
    """What it can do and how much it holds, in the form of OpenAI or Anthropic."""
    context = context_of(request)
    chosen = context.builder.choose(name)
    return Json(_object_for(request)(context, chosen.name, context.builder.adapter(chosen.adapter)))


def _object_for(request: Request) -> Callable[[Context, str, AdapterInfo | None], dict[str, Any]]:
    return anthropic_model_object if _VERSION in request.headers else model_object


def model_object(context: Context, name: str, info: AdapterInfo | None) -> dict[str, Any]:
    """OpenAI's model object, with what one has to know; `root` and `parent` of an adapter as vLLM has them."""
    return {
        "id": name,
        "object": "model",
        "created": context.created if info is None else int(info.created),
        "owned_by": "pocketvlm",
        "root": context.model.name if info is None else info.source,
        "parent": None if info is None else context.names[0],
        "max_model_len": context.max_model_len,
        "capabilities": [what for what in CAPABILITIES if what != "vision" or context.sees],
        "modalities": {"input": ["text", *(["image", "video"] if context.sees else [])], "output": ["text"]},
    }


def anthropic_model_object(context: Context, name: str, info: AdapterInfo | None) -> dict[str, Any]:
    """Anthropic's model object."""
    created = context.created if info is None else int(info.created)
    return {
        "id": name,
        "type": "model",
        "display_name": context.model.name if info is None else info.name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": context.max_model_len,
        "max_tokens": context.max_model_len,
        "capabilities": None,
        "deprecated_at": None,
        "retires_at": None,
    }
