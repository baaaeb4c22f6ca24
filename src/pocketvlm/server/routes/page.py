"""The routes GET / and /ui/... serve the web page to browsers; they need no key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.server.page import INDEX, MISSING, POLICY, PageFile
from pocketvlm.server.routes.shared import Route, context_of

router = APIRouter(route_class=Route, include_in_schema=False)

# Names of these files contain a digest of their content.
_FOREVER = "public, max-age=31536000, immutable"


@router.get("/")
async def root(request: Request) -> Response:
    """The page for a browser; for everything else what Ollama's clients expect from a server that runs."""
    context = context_of(request)
    vary = {"Vary": "Accept, Accept-Encoding"}
    if not context.settings.ui or "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse("Ollama is running", headers=vary)
    index = context.page.get(INDEX)
    if index is None:
        return PlainTextResponse(MISSING, headers=vary)
    more = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return _send(request, index, {**vary, **more})


@router.get("/ui/{name:path}")
async def static(name: str, request: Request) -> Response:
    """A script, style or picture of the page."""
    context = context_of(request)
    file = context.page.get(f"ui/{name}") if context.settings.ui else None
    if file is None:
        raise ApiError(404, f"the page has no file {name[:80]!r}: see --no-ui and `make ui`")
    caching = _FOREVER if "-" in name else "no-cache"
    return _send(request, file, {"Vary": "Accept-Encoding", "Cache-Control": caching})


def _send(request: Request, file: PageFile, headers: dict[str, str]) -> Response:
    headers = {**headers, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.data, media_type=file.media_type, headers=headers)
