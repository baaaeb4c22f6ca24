"""The command `pocketvlm info` describes a model and the chosen kernels without reading weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pocketvlm.bytesize import readable_count, readable_size
from pocketvlm.cli import options
from pocketvlm.options.load import LoadOptions, named_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.api.adapters import AdapterInfo

EPILOG = """
Examples:

  pocketvlm info
  pocketvlm info openbmb/MiniCPM-V-4.6 --json
  pocketvlm info openbmb/MiniCPM-V-4.6 --adapter adapters/receipts
"""


@options.takes(
    *options.ADAPTER_OPTIONS,
    *options.load_options(
        "revision", "mmproj", "backend", "weights", "precision", "kv_cache_dtype", "threads", "device"
    ),
)
def info(
    model: Annotated[str, options.model_argument("INFO")] = options.DEFAULT_MODEL,
    as_json: Annotated[bool, options.json_option("INFO")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Say what a model is, and which kernels would run it.

    Sizes, types, layers, context and end ids come from the files' headers; no weight of the model is read. With
    --adapter also what an adapter changes.
    """
    from pocketvlm.api.about import describe, scheme_for
    from pocketvlm.api.adapters import AdapterInfo, open_adapter, warn_of_other_base
    from pocketvlm.backends import create
    from pocketvlm.checkpoint.hub import resolve
    from pocketvlm.checkpoint.reader import open_checkpoint
    from pocketvlm.cli.terminal import Activity

    with Activity(quiet) as activity:
        activity.say(f"reading {model}")
        engine = options.given(values, LoadOptions)
        options.check({}, engine)
        how = LoadOptions(**engine)
        path = resolve(model, how.revision, activity.downloading(model), mmproj=how.mmproj)
        checkpoint = open_checkpoint(path, mmproj=how.mmproj)
        scheme = scheme_for(checkpoint, how.backend, how.weights, how.precision, how.kv_cache_dtype)
        facts = describe(model, checkpoint, create(how.backend, how.threads, how.device, scheme))
        sources = named_adapters(how.adapters, model)
        opened = {name: open_adapter(name, source, checkpoint) for name, source in sources.items()}
        for name, adapter in opened.items():
            warn_of_other_base(name, adapter, checkpoint)
        adapters = [AdapterInfo.of(name, adapter) for name, adapter in opened.items()]
    facts["adapters"] = [adapter.to_dict() for adapter in adapters]
    if as_json:
        import json

        print(json.dumps(facts, ensure_ascii=False))
    else:
        print(_table(facts, adapters))


def _table(facts: dict[str, Any], adapters: Sequence[AdapterInfo]) -> str:
    from pocketvlm.cli.terminal import printable

    total = sum(facts["stored_as"].values())
    stored = ", ".join(f"{kind} {count / max(total, 1):.0%}" for kind, count in facts["stored_as"].items())
    linear = facts["text_layers"] - facts["full_attention_layers"]
    rows = {
        "model": facts["model"],
        "path": facts["path"],
        "family": facts["family"],
        "parameters": f"{readable_count(facts['parameters'])} ({readable_size(facts['bytes'])}; {stored})",
        "text": f"{facts['text_layers']} layers, {facts['text_width']} wide "
        f"({linear} linear attention, {facts['full_attention_layers']} full)",
        "vision": f"{facts['vision_layers']} layers, {facts['vision_width']} wide"
        if facts["vision_layers"]
        else "none: images need the model's mmproj file",
        "images": f"{facts['downsample_mode']}, at most {facts['max_slice_nums']} slices",
        "vocabulary": f"{facts['vocabulary']} tokens, end at {', '.join(map(str, facts['eos_token_ids']))}",
        "context": f"{facts['context']} tokens",
        "memory": f"{readable_size(facts['kv_cache_bytes_per_token'])} per token, "
        f"{readable_size(facts['state_bytes_per_sequence'])} per sequence",
        "quantization": facts["quantization"] or "none: all tensors are dense",
        **facts["backend"],
    }
    width = max(map(len, rows))
    lines = [
        *rows.items(),
        *((("" if number else "matrices"), part) for number, part in enumerate(_parts(facts["parts"]))),
        *(("adapter", str(adapter)) for adapter in adapters),
    ]
    return "\n".join(f"{name:<{width}}  {printable(str(value))}" for name, value in lines)


def _parts(parts: list[dict[str, Any]]) -> list[str]:
    """A line for all parts that are stored and multiplied the same way: how many matrices of which, and how."""
    same: dict[str, list[str]] = {}
    for part in parts:
        origin = "quantized in the checkpoint" if part["quantized"] else "dense in the checkpoint"
        how = f"{part['stored']}, {origin}; {part['kernel']}"
        same.setdefault(how, []).append(f"{part['matrices']} {part['part']}")
    return [f"{', '.join(names)}: {how}" for how, names in same.items()]
