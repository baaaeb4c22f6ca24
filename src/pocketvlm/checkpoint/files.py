"""`find_files` returns the weight files of a checkpoint: one safetensors file or the shards of an index.

`is_gguf` knows GGUF files, which are a checkpoint by themselves.
"""

from __future__ import annotations

from pathlib import Path

from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
GGUF_MAGIC = b"GGUF"

# Of an adapter: PEFT's settings, its weights in either form, and the options it was trained with.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
ADAPTER_OPTIONS = "pocketvlm.json"
# For who gives an adapter where a model is wanted.
GIVE_ADAPTER = "give its base as the model, and the adapter with --adapter (adapters= in Python), or merge the two"


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter, and no model next to it; some tools also save the base's config.json."""
    weights = (SINGLE_FILE, INDEX_FILE) if (path / "config.json").is_file() else ()
    return (path / ADAPTER_CONFIG).is_file() and not any((path / name).exists() for name in weights)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever its name is; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError:
        return False


def weight_names(directory: Path) -> list[str]:
    """The weight files that belong to a directory, there or not: model.safetensors, else the shards of the index.

    Raises CheckpointError for an index that is damaged or points out of the directory.
    """
    index = directory / INDEX_FILE
    if index.is_file() and not (directory / SINGLE_FILE).is_file():
        return sorted(set(weight_map(index).values()))
    return [SINGLE_FILE]


def find_files(directory: Path) -> tuple[Path, ...]:
    """The weight files of a checkpoint directory: model.safetensors, else the shards that the index lists.

    Raises CheckpointError if there are none, if a shard is missing, or if the index names files outside the directory.
    """
    names = weight_names(directory)
    missing = [name for name in names if not (directory / name).is_file()]
    if not missing:
        return tuple(directory / name for name in names)
    if missing != [SINGLE_FILE]:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CheckpointError(
            f"{directory / INDEX_FILE}: {len(missing)} of {len(names)} shards are missing ({shown}): the download is "
            f"incomplete, run it again"
        )
    if (directory / SINGLE_FILE).is_symlink():
        raise CheckpointError(
            f"{directory / SINGLE_FILE}: is a link to {(directory / SINGLE_FILE).readlink()}, which is not there: "
            f"download or copy it again"
        )
    if is_adapter(directory):
        raise CheckpointError(f"{directory}: is an adapter, no model: {GIVE_ADAPTER}")
    others = sorted(
        path.name for path in directory.iterdir() if path.suffix in {".safetensors", ".bin", ".gguf", ".pt"}
    )
    tensors = [name for name in others if name.endswith(".safetensors")]
    if len(tensors) == 1:
        raise CheckpointError(
            f"{directory}: no {SINGLE_FILE}, only {tensors[0]}: rename it to {SINGLE_FILE} if it holds all weights"
        )
    if tensors:
        raise CheckpointError(
            f"{directory}: no {INDEX_FILE}, which says what {tensors[0]} and {len(tensors) - 1} more files hold: "
            f"download or copy it too"
        )
    found = f", only {', '.join(others[:5])}, which pocketvlm does not load" if others else ""
    raise CheckpointError(
        f"{directory}: no {SINGLE_FILE} and no {INDEX_FILE}{found}: use a checkpoint in Hugging Face's safetensors "
        f"format, or a GGUF file"
    )


def weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard name of an index file, with shard names that stay inside the directory."""
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{index}: weight_map is missing or empty: download or copy the file again")
    for name, shard in weights.items():
        if (
            not isinstance(shard, str)
            or not shard.endswith(".safetensors")
            or shard.startswith(".")
            or any(mark in shard for mark in ("/", "\\", "\0", ":"))
        ):
            raise CheckpointError(
                f"{index}: weight_map[{name!r}]={shard!r} is refused: shards are .safetensors files beside the index"
            )
    return weights
