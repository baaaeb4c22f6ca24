"""The routes POST /tokenize and /detokenize convert between text and ids."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.interfaces.schemas.tokens import DetokenizeRequest, TokenizeRequest
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, accept

router = APIRouter(route_class=Route, tags=["Tokens"])


@router.post("/tokenize", summary="Token ids of text or of a conversation")
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Ids, their number, and what each image and video becomes: size, grid, frames, tokens."""
    context, record = accept(request, body)
    chosen = context.choose(body, record)
    prompt, _ = await context.prompt_for(chosen.asks(body.question(record.ignored)), record.owner)
    ids = prompt.ids.tolist()
    answer = {
        "count": len(ids),
        "max_model_len": context.max_model_len,
        "tokens": ids,
        "visual_tokens": prompt.image_tokens,
        "images": [asdict(image) for image in prompt.images],
        "videos": [asdict(video) for video in prompt.videos],
    }
    if body.return_token_strs:
        answer["token_strs"] = [context.tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]
    return Json(answer)


@router.post("/detokenize", summary="Text of token ids")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """Control tokens included."""
    context, _ = accept(request, body)
    context.choose(body)
    text = await context.in_thread(lambda: context.tokenizer.decode(body.tokens, skip_special_tokens=False))
    return Json({"prompt": text})
