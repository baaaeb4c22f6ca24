"""The routes under /v1/files store an image or a video once under an id."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from starlette.responses import FileResponse, Response

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, context_of, record_of

router = APIRouter(route_class=Route, tags=["Files"])


@router.post("/v1/files", summary="Upload a file")
async def upload(
    request: Request, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form(max_length=64)] = "vision"
) -> Response:
    """A multipart form with the fields file and purpose. Files are forgotten after a day, those of batches after 30.

    Without a data directory they are forgotten when the server ends, too.
    """
    context, record = context_of(request), record_of(request)
    stored = await asyncio.to_thread(context.files.add, file.file, file.filename or "file", purpose, record.owner)
    return Json(stored.to_dict())


@router.get("/v1/files", summary="Files of this key")
async def files(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Response:
    """Newest first unless order says otherwise; `after` is the id that the page before ended with."""
    context, record = context_of(request), record_of(request)
    found = [file for file in context.files.all(record.owner) if purpose in (None, file.purpose)]
    if order == "desc":
        found.reverse()
    if after is not None:
        ids = [file.id for file in found]
        if after not in ids:
            raise ApiError(404, f"after={after[:80]!r}: no such file in this list", param="after")
        found = found[ids.index(after) + 1 :]
    found, rest = found[:limit], found[limit:]
    ends = {"first_id": found[0].id if found else None, "last_id": found[-1].id if found else None}
    return Json({"object": "list", "data": [file.to_dict() for file in found], "has_more": bool(rest), **ends})


@router.get("/v1/files/{file_id}", summary="One file")
async def file_info(file_id: str, request: Request) -> Response:
    """Its name and size."""
    return Json(context_of(request).files.get(file_id, record_of(request).owner).to_dict())


@router.get("/v1/files/{file_id}/content", summary="A file's content")
async def file_content(file_id: str, request: Request) -> Response:
    """The bytes that were uploaded."""
    context, record = context_of(request), record_of(request)
    path = await asyncio.to_thread(context.files.path, file_id, record.owner)
    # Whatever it is, it must not run as a page of this server.
    headers = {"Content-Disposition": "attachment"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}", summary="Forget a file")
async def delete(file_id: str, request: Request) -> Response:
    """At once."""
    context_of(request).files.delete(file_id, record_of(request).owner)
    return Json({"id": file_id, "object": "file", "deleted": True})
