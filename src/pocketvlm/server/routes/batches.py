"""The routes under /v1/batches run the lines of an uploaded file, in the form of OpenAI."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.schemas.batches import BatchRequest
from pocketvlm.server.batches.batch import Batch, window_seconds
from pocketvlm.server.batches.worker import copy_input
from pocketvlm.server.files import BATCH, owner_of
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, accept, context_of, record_of

router = APIRouter(route_class=Route, tags=["Batches"])


@router.post("/v1/batches", summary="Begin a batch")
async def create(body: BatchRequest, request: Request) -> Response:
    """Its file was uploaded with the purpose batch. It runs while nobody else asks, and survives restarts."""
    context, record = accept(request, body)
    worker = context.batches()
    if window_seconds(body.completion_window) is None:
        raise ApiError(
            400,
            f"completion_window={body.completion_window[:40]!r} is no time of at most 30 days: give 24h, 30m or 7d",
            param="completion_window",
        )

    def begin() -> Batch:
        file = context.files.get(body.input_file_id, record.owner)
        if file.purpose != BATCH:
            raise ApiError(
                400,
                f"input_file_id: the file has the purpose {file.purpose!r}: upload it with the purpose 'batch'",
                param="input_file_id",
            )
        expiry = body.output_expires_after
        batch = Batch.new(
            "openai",
            owner_of(context.settings, record.owner),
            body.endpoint,
            body.completion_window,
            input_file_id=file.id,
            metadata=body.metadata,
            output_seconds=None if expiry is None else float(expiry.seconds),
        )
        copy_input(context.batch_store, batch, context.files.path(file.id, record.owner))
        worker.add(batch)
        return batch

    return Json((await asyncio.to_thread(begin)).to_openai())


@router.get("/v1/batches", summary="Batches of this key")
async def batches(
    request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Response:
    """Newest first; `after` is the id that the page before ended with."""
    context, record = context_of(request), record_of(request)
    context.batches()
    found = await asyncio.to_thread(context.all_batches, "openai", record.owner)
    if after is not None:
        ids = [batch.id for batch in found]
        if after not in ids:
            raise ApiError(404, f"after={after[:80]!r}: no such batch in this list", param="after")
        found = found[ids.index(after) + 1 :]
    page = found[:limit]
    ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    data = [batch.to_openai() for batch in page]
    return Json({"object": "list", "data": data, **ends, "has_more": len(found) > limit})


@router.get("/v1/batches/{batch_id}", summary="One batch")
async def batch(batch_id: str, request: Request) -> Response:
    """Its status, how many requests are done, and the ids of its output files."""
    context = context_of(request)
    owner = owner_of(context.settings, record_of(request).owner)
    return Json((await asyncio.to_thread(context.batches().get, batch_id, "openai", owner)).to_openai())


@router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch")
async def cancel(batch_id: str, request: Request) -> Response:
    """Requests that are done have their answers in the output file."""
    context = context_of(request)
    worker, owner = context.batches(), owner_of(context.settings, record_of(request).owner)
    found = await asyncio.to_thread(worker.get, batch_id, "openai", owner)
    if not found.active:
        raise ApiError(409, f"the batch has ended: its status is {found.status!r}", code="batch_ended")
    return Json((await asyncio.to_thread(worker.cancel, found)).to_openai())
