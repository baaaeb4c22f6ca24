"""The routes /v1/load_lora_adapter and /v1/unload_lora_adapter change the loaded adapters, as vLLM's do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from pocketvlm.interfaces.schemas.adapters import LoadAdapterRequest, UnloadAdapterRequest
from pocketvlm.options.load import MAX_ADAPTER_NAME
from pocketvlm.server.routes.shared import Route, accept

router = APIRouter(route_class=Route, tags=["Adapters"])


@router.post("/v1/load_lora_adapter", summary="Load an adapter")
async def load(body: LoadAdapterRequest, request: Request) -> Response:
    """Only with --allow-adapter-loading, from below --adapter-dir. Running requests are not interrupted."""
    context, record = accept(request, body)
    record.adapter = body.lora_name[:MAX_ADAPTER_NAME]
    await context.adapters.load(body.lora_name, body.lora_path, bool(body.load_inplace))
    # The text that vLLM's clients look for.
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", summary="Unload an adapter")
async def unload(body: UnloadAdapterRequest, request: Request) -> Response:
    """Only with --allow-adapter-loading. Running requests end with the adapter, new ones are refused."""
    context, record = accept(request, body)
    record.adapter = body.lora_name[:MAX_ADAPTER_NAME]
    await context.adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")
