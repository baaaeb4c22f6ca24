"""`pocketvlm info`: what a model is and which kernels would run it, without reading its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pocketvlm.cli import options

if TYPE_CHECKING:
    from pocketvlm.backends.ops import Ops
    from pocketvlm.checkpoint.huggingface import Checkpoint

EPILOG = """
Examples:

  pocketvlm info
  pocketvlm info openbmb/MiniCPM-V-4.6 --json
"""


def info(
    model: Annotated[str, options.model_argument("INFO")] = options.DEFAULT_MODEL,
    revision: options.Revision = None,
    backend: options.Backend = "native",
    threads: options.Threads = None,
    device: options.Device = None,
    as_json: Annotated[bool, options.json_option("INFO")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Say what a model is, and which kernels would run it.

    Sizes, types, layers, context and end ids come from the files' headers; no weight is read.
    """
    from pocketvlm.checkpoint.hub import resolve
    from pocketvlm.checkpoint.huggingface import read_checkpoint
    from pocketvlm.cli.terminal import Activity

    with Activity(quiet) as activity:
        activity.say(f"reading {model}")
        path = resolve(model, revision, activity.downloading(model))
        facts = describe(model, read_checkpoint(path), _operations(backend, threads, device))
    if as_json:
        import json

        print(json.dumps(facts, ensure_ascii=False))
    else:
        print(_table(facts))


def _operations(backend: str, threads: int | None, device: str | None) -> Ops:
    from pocketvlm.errors import OptionError

    if threads is not None and threads < 1:
        raise OptionError(f"--threads {threads} is out of range: give at least 1")
    if backend == "torch":
        from pocketvlm.backends import torch

        return torch.create(threads, device)
    if device is not None:
        raise OptionError(f"--device {device} needs --backend torch: the native backend runs on the CPU")
    from pocketvlm.backends import native

    return native.create(threads)


def describe(name: str, checkpoint: Checkpoint, ops: Ops) -> dict[str, Any]:
    """The facts of `Model.info()`, and some more, from the files' headers alone."""
    from pocketvlm.engine.memory import PAGE_SIZE, page_bytes, slot_bytes

    config = checkpoint.model
    return {
        "model": name,
        "path": str(checkpoint.path),
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.nbytes,
        "stored_as": checkpoint.dtypes,
        "vocabulary": config.text.vocab_size,
        "context": config.text.max_position_embeddings,
        "text_layers": len(config.text.layer_types),
        "full_attention_layers": config.text.layer_types.count("full_attention"),
        "text_width": config.text.hidden_size,
        "vision_layers": config.vision.num_hidden_layers,
        "vision_width": config.vision.hidden_size,
        "downsample_mode": checkpoint.processor.downsample_mode,
        "max_slice_nums": checkpoint.processor.max_slice_nums,
        "eos_token_ids": list(checkpoint.eos_token_ids),
        "kv_cache_bytes_per_token": page_bytes(config.text, PAGE_SIZE) // PAGE_SIZE,
        "state_bytes_per_sequence": slot_bytes(config.text),
        "backend": ops.describe(),
    }


def _table(facts: dict[str, Any]) -> str:
    from pocketvlm.cli.terminal import printable, size

    total = facts["parameters"]
    stored = ", ".join(f"{kind} {count / max(total, 1):.0%}" for kind, count in facts["stored_as"].items())
    linear = facts["text_layers"] - facts["full_attention_layers"]
    rows = {
        "model": facts["model"],
        "path": facts["path"],
        "parameters": f"{_count(total)} ({size(facts['bytes'])}; {stored})",
        "text": f"{facts['text_layers']} layers, {facts['text_width']} wide "
        f"({linear} linear attention, {facts['full_attention_layers']} full)",
        "vision": f"{facts['vision_layers']} layers, {facts['vision_width']} wide",
        "images": f"{facts['downsample_mode']}, at most {facts['max_slice_nums']} slices",
        "vocabulary": f"{facts['vocabulary']} tokens, end at {', '.join(map(str, facts['eos_token_ids']))}",
        "context": f"{facts['context']} tokens",
        "memory": f"{size(facts['kv_cache_bytes_per_token'])} per token, "
        f"{size(facts['state_bytes_per_sequence'])} per sequence",
        **facts["backend"],
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {printable(str(value))}" for name, value in rows.items())


def _count(number: int) -> str:
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return str(number)
