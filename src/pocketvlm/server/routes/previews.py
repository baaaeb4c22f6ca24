"""These routes show images, frames of videos and pages of PDF files that were uploaded, and upload by URL."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.schemas.files import FetchRequest
from pocketvlm.processor import pdf
from pocketvlm.processor.encode import encode
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.media import read_image
from pocketvlm.server.context import Context
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, accept, context_of, record_of

router = APIRouter(route_class=Route, tags=["Files"])

_FRAME_SIDE = 320  # pixels of the longer side of a video's frame
_IMAGE_SIDE = 2048
_CACHED = {"Cache-Control": "private, max-age=86400"}  # a file never changes under its id


@router.post("/v1/files/fetch", summary="Upload a file by its URL")
async def fetch(body: FetchRequest, request: Request) -> Response:
    """The server fetches it, by the same rules as URLs in messages, and stores it like an upload."""
    context, record = accept(request, body)
    scheme = body.url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise ApiError(400, f"url={body.url[:80]!r}: give an http or https URL", param="url")
    data = await context.media.fetch(body.url, "url")
    name = unquote(urlsplit(body.url).path).rpartition("/")[2] or "file"
    stored = await asyncio.to_thread(context.files.add, io.BytesIO(data), name, "vision", record.owner)
    return Json(stored.to_dict())


@router.get("/v1/files/{file_id}/preview", summary="An uploaded image as PNG")
async def preview(file_id: str, request: Request) -> Response:
    """At most 2048 pixels wide and high, upright; for formats that browsers do not show."""
    context, path = _found(request, file_id)

    def draw() -> bytes:
        image = read_image(path.read_bytes(), context.limits)
        return encode(image, _IMAGE_SIDE, "PNG")

    return Response(await context.in_thread(draw), media_type="image/png", headers=_CACHED)


@router.get("/v1/files/{file_id}/frames/{number}", summary="One frame of an uploaded video as JPEG")
async def frame(file_id: str, number: int, request: Request) -> Response:
    """Frames count from 0, as /tokenize names those that the model sees. At most 320 pixels wide and high."""
    context, path = _found(request, file_id)

    def draw() -> bytes:
        frames = open_frames(path, replace(context.limits, local_files=True))
        total = len(frames.timeline().starts)
        if not 0 <= number < total:
            raise ApiError(404, f"there is no frame {number}: the video has frames 0 to {total - 1}", param="number")
        decoder = frames.decoder([number])
        try:
            return encode(decoder.read(number), _FRAME_SIDE, "JPEG")
        finally:
            decoder.close()

    return Response(await context.in_thread(draw), media_type="image/jpeg", headers=_CACHED)


@router.get("/v1/files/{file_id}/pages", summary="How many pages an uploaded PDF file has")
async def pages(file_id: str, request: Request) -> Response:
    """Needs the package pypdfium2 on the server."""
    context, path = _found(request, file_id)
    return Json({"count": await context.in_thread(lambda: pdf.page_count(path))})


@router.get("/v1/files/{file_id}/pages/{number}", summary="One page of an uploaded PDF file as PNG")
async def page(file_id: str, number: int, request: Request) -> Response:
    """Pages count from 1 and are drawn at 144 dots an inch."""
    context, path = _found(request, file_id)

    def draw() -> bytes:
        return encode(pdf.draw_page(path, number, context.limits), pdf.LONGEST, "PNG")

    return Response(await context.in_thread(draw), media_type="image/png", headers=_CACHED)


def _found(request: Request, file_id: str) -> tuple[Context, Path]:
    context = context_of(request)
    return context, context.files.path(file_id, record_of(request).owner)
