"""These routes serve Ollama's model list, versions and pulls, and refuse what the server does not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.api.about import parameter_count
from pocketvlm.api.adapters import AdapterInfo
from pocketvlm.bytesize import readable_count
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.common import dump
from pocketvlm.interfaces.renderers.ollama import timestamp
from pocketvlm.interfaces.schemas.ollama import OllamaPullRequest, OllamaShowRequest
from pocketvlm.server.context import Context
from pocketvlm.server.replies import Json
from pocketvlm.server.routes.shared import Route, accept, context_of

router = APIRouter(route_class=Route, tags=["Ollama"])

FAMILY = "minicpmv"
# Beyond the years that Go's durations hold, which its client shows as "Forever".
_NEVER = "2999-01-01T00:00:00Z"
_ONE_MODEL = "this server has the one model that it was started with: see pocketvlm serve"
# Method, path and reason of what Ollama does and this server does not.
REFUSED = (
    ("POST", "/api/embed", "this model makes no embeddings: use a model for them"),
    ("POST", "/api/embeddings", "this model makes no embeddings: use a model for them"),
    ("POST", "/api/create", f"models cannot be created: {_ONE_MODEL}"),
    ("POST", "/api/copy", f"models cannot be copied: {_ONE_MODEL} --served-model-name for other names"),
    ("DELETE", "/api/delete", f"models cannot be deleted: {_ONE_MODEL}"),
    ("POST", "/api/push", f"models cannot be uploaded: {_ONE_MODEL}"),
    ("GET", "/api/blobs/{digest}", f"files of models cannot be asked for: {_ONE_MODEL}"),
    ("POST", "/api/blobs/{digest}", f"files of models cannot be sent: {_ONE_MODEL}"),
)


@router.get("/api/version", summary="The version of Ollama whose clients fit")
async def version(request: Request) -> Response:
    """As --ollama-version says; /version has that of pocketvlm."""
    return Json({"version": context_of(request).settings.ollama_version})


@router.get("/api/tags", summary="The models")
async def tags(request: Request) -> Response:
    """The model under each of its names, and its adapters."""
    context = context_of(request)
    return Json({"models": [_listed(context, *each) for each in context.listed()]})


@router.get("/api/ps", summary="The models in memory")
async def ps(request: Request) -> Response:
    """The same: the model is always in memory."""
    context = context_of(request)
    on_gpu = context.model.ops.describe().get("device", "").startswith("cuda")
    more = {
        "expires_at": _NEVER,
        "size_vram": context.model.checkpoint.nbytes if on_gpu else 0,
        "context_length": context.max_model_len,
    }
    return Json({"models": [{**_listed(context, *each), **more} for each in context.listed()]})


@router.post("/api/show", summary="What a model is")
async def show(body: OllamaShowRequest, request: Request) -> Response:
    """Template, sizes and capabilities; with verbose also the tensors."""
    context, record = accept(request, body)
    chosen = context.choose(body, record)
    info, name = context.builder.adapter(chosen.adapter), chosen.name
    source = f"FROM {name}\n" if info is None else f"FROM {context.names[0]}\nADAPTER {info.source}\n"
    found: dict[str, Any] = {
        "license": "",
        "modelfile": f"# This model is served by pocketvlm and has no Modelfile.\n{source}",
        "parameters": _parameters(context),
        "template": context.builder.template,
        "details": _details(context, info),
        "model_info": _model_info(context, name),
        "capabilities": ["completion", *(["vision"] if context.sees else []), "tools", "thinking"],
        "modified_at": _modified(context),
    }
    if body.verbose:
        found["tensors"] = [
            {"name": tensor, "type": entry.dtype, "shape": list(entry.shape)}
            for tensor, entry in context.model.checkpoint.entries.items()
        ]
    return Json(found)


@router.post("/api/pull", summary="Download a model")
async def pull(body: OllamaPullRequest, request: Request) -> Response:
    """The served one is there already: success at once."""
    context, _ = accept(request, body)
    context.choose(body)
    success = {"status": "success"}
    if body.stream is False:
        return Json(success)
    return Response(dump(success) + b"\n", media_type="application/x-ndjson")


def _refusal(why: str) -> Callable[[], Awaitable[Response]]:
    async def refuse() -> Response:
        raise ApiError(501, why, code="not_implemented")

    return refuse


for _method, _path, _why in REFUSED:
    router.add_api_route(_path, _refusal(_why), methods=[_method], include_in_schema=False)


def _listed(context: Context, name: str, info: AdapterInfo | None) -> dict[str, Any]:
    """An entry of a list. Ollama's names always have a tag, and clients look for `latest` where users gave none."""
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return {
        "name": tagged,
        "model": tagged,
        "modified_at": _modified(context),
        "size": context.model.checkpoint.nbytes,
        "digest": context.builder.digest_of(info),
        "details": _details(context, info),
    }


def _details(context: Context, info: AdapterInfo | None) -> dict[str, Any]:
    return {
        "parent_model": "" if info is None else context.names[0],
        "format": "safetensors" if context.model.checkpoint.path.is_dir() else "gguf",
        "family": FAMILY,
        # Older clients offer images only where the vision tower is listed by this name.
        "families": [FAMILY, "clip"] if context.sees else [FAMILY],
        "parameter_size": readable_count(parameter_count(context.model.checkpoint)).replace(" ", ""),
        "quantization_level": context.builder.weights,
    }


def _modified(context: Context) -> str:
    """When the weight files changed."""
    return timestamp(max(path.stat().st_mtime for path in context.model.checkpoint.tensor_files))


def _parameters(context: Context) -> str:
    """What is used where requests do not say, a name and a value a line."""
    sampling = context.model.sampling_defaults
    values = {
        "num_ctx": context.max_model_len,
        "num_predict": context.settings.default_max_tokens,
        "repeat_penalty": sampling.repetition_penalty,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
    }
    return "\n".join(f"{name:<30} {value}" for name, value in values.items())


def _model_info(context: Context, name: str) -> dict[str, Any]:
    """Sizes of the model by the keys of GGUF files."""
    checkpoint = context.model.checkpoint
    text, vision = checkpoint.model.text, checkpoint.model.vision
    own = {
        "context_length": context.max_model_len,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "block_count": len(text.layer_types),
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "attention.key_length": text.head_dim,
        "attention.value_length": text.head_dim,
        "attention.layer_norm_rms_epsilon": text.rms_norm_eps,
        "rope.dimension_count": text.rotary_dim,
        "rope.freq_base": text.rope_theta,
        "vocab_size": text.vocab_size,
    }
    if vision is not None:
        own |= {"vision.block_count": vision.num_hidden_layers, "vision.embedding_length": vision.hidden_size}
    return {
        "general.architecture": FAMILY,
        "general.basename": name,
        "general.parameter_count": parameter_count(checkpoint),
        **{f"{FAMILY}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": checkpoint.eos_token_ids[0],
    }
