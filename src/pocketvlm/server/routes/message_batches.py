"""The routes under /v1/messages/batches run many requests in the form of Anthropic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.schemas.batches import MessageBatchRequest
from pocketvlm.server.batches.batch import Batch
from pocketvlm.server.context import Context
from pocketvlm.server.files import owner_of
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, accept, context_of, record_of

router = APIRouter(route_class=Route, tags=["Batches"])
_URL = "/v1/messages"


@router.post("/v1/messages/batches", summary="Begin a batch of messages")
async def create(body: MessageBatchRequest, request: Request) -> Response:
    """It runs while nobody else asks, for at most 24 hours, and survives restarts."""
    context, record = accept(request, body)
    worker = context.batches()
    seen: set[str] = set()
    for index, each in enumerate(body.requests):
        if each.custom_id in seen:
            raise ApiError(
                400,
                f"requests[{index}].custom_id: an earlier request has {each.custom_id!r} too: give each its own",
                param=f"requests[{index}].custom_id",
            )
        seen.add(each.custom_id)

    def begin() -> Batch:
        batch = Batch.new("anthropic", owner_of(context.settings, record.owner), _URL, "24h", total=len(body.requests))
        _write(context.batch_store.input(batch), body)
        worker.add(batch)
        return batch

    return Json((await asyncio.to_thread(begin)).to_anthropic(_base_url(request)))


@router.get("/v1/messages/batches", summary="Batches of messages of this key")
async def batches(
    request: Request,
    after_id: str | None = None,
    before_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """Newest first; `after_id` and `before_id` are ids of the page before or after."""
    context, record = context_of(request), record_of(request)
    context.batches()
    found = await asyncio.to_thread(context.all_batches, "anthropic", record.owner)
    ids = [batch.id for batch in found]
    for name, value in (("after_id", after_id), ("before_id", before_id)):
        if value is not None and value not in ids:
            raise ApiError(404, f"{name}={value[:80]!r}: no such batch in this list", param=name)
    if before_id is not None:
        found = found[: ids.index(before_id)]
        page, more = found[-limit:], len(found) > limit
    else:
        found = found[ids.index(after_id) + 1 :] if after_id is not None else found
        page, more = found[:limit], len(found) > limit
    ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return Json({"data": [batch.to_anthropic(_base_url(request)) for batch in page], "has_more": more, **ends})


@router.get("/v1/messages/batches/{batch_id}", summary="One batch of messages")
async def batch(batch_id: str, request: Request) -> Response:
    """How many requests are done, and where the results are."""
    return Json((await _get(batch_id, request)).to_anthropic(_base_url(request)))


@router.post("/v1/messages/batches/{batch_id}/cancel", summary="Cancel a batch of messages")
async def cancel(batch_id: str, request: Request) -> Response:
    """Requests that are done have their results."""
    found = await _get(batch_id, request)
    found = await asyncio.to_thread(context_of(request).batches().cancel, found)
    return Json(found.to_anthropic(_base_url(request)))


@router.get("/v1/messages/batches/{batch_id}/results", summary="The results of a batch of messages")
async def results(batch_id: str, request: Request) -> Response:
    """A line of JSON for each request, once the batch has ended."""
    found = await _get(batch_id, request)
    path = context_of(request).batch_store.results(found)
    if found.active or not path.is_file():
        raise ApiError(400, "the batch has not ended: there are no results yet", code="batch_not_ended")
    return FileResponse(path, media_type="application/x-jsonl")


@router.delete("/v1/messages/batches/{batch_id}", summary="Forget a batch of messages")
async def delete(batch_id: str, request: Request) -> Response:
    """Only once it has ended."""
    found = await _get(batch_id, request)
    if found.active:
        raise ApiError(400, "the batch has not ended: cancel it first", code="batch_not_ended")
    await asyncio.to_thread(context_of(request).batch_store.remove, found)
    return Json({"id": batch_id, "type": "message_batch_deleted"})


async def _get(batch_id: str, request: Request) -> Batch:
    context: Context = context_of(request)
    owner = owner_of(context.settings, record_of(request).owner)
    return await asyncio.to_thread(context.batches().get, batch_id, "anthropic", owner)


def _write(path: Path, body: MessageBatchRequest) -> None:
    """The requests as lines of a batch file."""

    def lines() -> Iterator[str]:
        for each in body.requests:
            value = {"custom_id": each.custom_id, "method": "POST", "url": _URL, "body": each.params}
            yield json.dumps(value) + "\n"

    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines())


def _base_url(request: Request) -> str:
    """The address by which the client reached this server."""
    prefix = context_of(request).settings.root_path
    return f"{request.url.scheme}://{request.url.netloc}{prefix}"
