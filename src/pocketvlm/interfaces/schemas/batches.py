"""These are the requests that create batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pocketvlm.interfaces.fields import BATCHES
from pocketvlm.interfaces.schemas.common import Body, Json, Object

MAX_METADATA = 16


class ExpiresAfter(Object):
    """When output files are forgotten."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class BatchRequest(Body):
    """A batch of OpenAI's: an uploaded file with one request in each line."""

    interface = BATCHES
    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
    completion_window: str = Field("24h", description="How long it may take: 24h, or another time such as 30m or 7d.")
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = Field(None, max_length=MAX_METADATA)
    output_expires_after: ExpiresAfter | None = None


class MessageRequest(Object):
    """One request of a batch."""

    custom_id: Annotated[str, Field(min_length=1, max_length=64)]
    params: Json


class MessageBatchRequest(Body):
    """A batch of Anthropic's, with the requests in it."""

    interface = BATCHES
    requests: Annotated[list[MessageRequest], Field(min_length=1, max_length=100_000)]
