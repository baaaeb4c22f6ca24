"""The command `pocketvlm info` describes a model and the chosen kernels without reading weights."""

from __future__ import annotations

from typing import Annotated, Any

from pocketvlm.cli import options

EPILOG = """
Examples:

  pocketvlm info
  pocketvlm info openbmb/MiniCPM-V-4.6 --json
"""


def info(
    model: Annotated[str, options.model_argument("INFO")] = options.DEFAULT_MODEL,
    revision: options.Revision = None,
    backend: options.Backend = "native",
    weights: options.Weights = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    device: options.Device = None,
    as_json: Annotated[bool, options.json_option("INFO")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Say what a model is, and which kernels would run it.

    Sizes, types, layers, context and end ids come from the files' headers; no weight is read.
    """
    from pocketvlm.api.about import describe, scheme_for
    from pocketvlm.backends import check, create
    from pocketvlm.checkpoint.hub import resolve
    from pocketvlm.checkpoint.huggingface import read_checkpoint
    from pocketvlm.cli.terminal import Activity

    with Activity(quiet) as activity:
        activity.say(f"reading {model}")
        check(backend, threads, device, weights, precision)
        checkpoint = read_checkpoint(resolve(model, revision, activity.downloading(model)))
        scheme = scheme_for(checkpoint, backend, weights, precision)
        facts = describe(model, checkpoint, create(backend, threads, device, scheme))
    if as_json:
        import json

        print(json.dumps(facts, ensure_ascii=False))
    else:
        print(_table(facts))


def _table(facts: dict[str, Any]) -> str:
    from pocketvlm.cli.terminal import printable, size

    total = facts["parameters"]
    stored = ", ".join(f"{kind} {count / max(total, 1):.0%}" for kind, count in facts["stored_as"].items())
    linear = facts["text_layers"] - facts["full_attention_layers"]
    rows = {
        "model": facts["model"],
        "path": facts["path"],
        "family": facts["family"],
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
