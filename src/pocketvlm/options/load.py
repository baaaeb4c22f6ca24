"""`LoadOptions` defines the options of `pocketvlm.load`: which weights, how they are stored, and the memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pocketvlm.bytesize import size_text
from pocketvlm.errors import OptionError
from pocketvlm.options.option import Option, validate

Backend = Literal["native", "torch"]
Precision = Literal["exact", "fast"]
Weights = Literal["auto", "int4", "int8", "bf16", "stored"]
KVCacheDtype = Literal["auto", "bf16", "int8", "f32"]

# A prompt is prefilled as fast as with 512, and other streams wait half as long (docs/log.md).
DEFAULT_PREFILL_CHUNK = 256
DEFAULT_MAX_SEQS = 16
DEFAULT_VISION_CACHE = 128 << 20
DEFAULT_VISION_CACHE_DISK = 4 << 30
MAX_ADAPTER_NAME = 200  # characters

# The server has these two options as well.
MaxModelLen = Annotated[
    int | None,
    Option("Maximum number of tokens of prompt and answer.", low=2, default="the model's context", group="Limits"),
]
MAX_SEQS = Option("Answers that are generated at the same time.", low=1, default=str(DEFAULT_MAX_SEQS), group="Limits")


def _is_cache(value: Any) -> bool:
    return isinstance(value, bool | str | Path) and bool(str(value))


def _are_adapters(value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        return False
    paths = list(value.values()) if isinstance(value, Mapping) else value
    named = not isinstance(value, Mapping) or all(isinstance(name, str) for name in value)
    return named and all(isinstance(path, str | Path) and bool(str(path)) for path in paths)


def _shown(value: Any) -> str:
    """A value as errors show it."""
    return repr(value[:100] if isinstance(value, str) else value)


def served_name(model: str) -> str:
    """What requests call a model: the name it was loaded by, of a directory its last part."""
    try:
        return Path(model).resolve().name if Path(model).is_dir() else model
    except (OSError, ValueError):  # no path: too long, a zero byte
        return model


def own_names(model: str) -> tuple[str, ...]:
    """All names of a model: no adapter in it may have one of them."""
    return tuple(dict.fromkeys((model, served_name(model))))


def check_adapter_name(name: Any, model_names: Collection[str], label: str | None = None) -> None:
    """Raise OptionError for a name that no adapter may have: one of the model, an empty, long or unprintable one.

    model_names: all names of the model. label: what the error calls the name (None: adapter NAME).
    """
    what = label or f"adapter {_shown(name)}"
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_ADAPTER_NAME:
        raise OptionError(f"{what}: give a name of 1 to {MAX_ADAPTER_NAME} printable characters")
    # Ollama's clients add the tag.
    if name in model_names or name.removesuffix(":latest") in model_names:
        raise OptionError(
            f"{what} has the name of the model: give it another one{'' if label else ' (NAME=DIR on the command line)'}"
        )


def named_adapters(
    given: Mapping[str, str | Path] | Sequence[str | Path] | None, model: str | None = None
) -> dict[str, str | Path]:
    """Directories of adapters by name. A directory of a list is named by its folder, unless it is a text "name=DIR".

    model: the one that they are for, if it is known. Raises OptionError for two adapters of one name, and for a name
    that no adapter may have.
    """
    found = dict(given) if isinstance(given, Mapping) else _by_folder(given or ())
    for name in found:
        check_adapter_name(name, () if model is None else own_names(model))
    return found


def _by_folder(given: Sequence[str | Path]) -> dict[str, str | Path]:
    found: dict[str, str | Path] = {}
    for item in given:
        try:
            Path(item).expanduser().exists()
        except (OSError, RuntimeError, ValueError) as error:  # too long, no such user
            reason = getattr(error, "strerror", None) or error
            raise OptionError(
                f"adapter {_shown(str(item))} is no path: {reason}: give a directory or a hub id"
            ) from None
        name, equals, rest = str(item).partition("=")
        path = item
        if isinstance(item, str) and equals and not Path(item).expanduser().is_dir():
            if not (name and rest):
                raise OptionError(f"adapter {item!r}: give NAME=DIR, or the directory alone")
            path = rest
        else:
            folder = Path(item).expanduser().resolve().name
            # A hub id may end with its revision.
            name = folder if Path(item).expanduser().exists() else folder.partition("@")[0]
        if name in found:
            raise OptionError(
                f"adapter {name!r} is given twice, as {str(found[name])!r} and {str(path)!r}: give one of them another "
                "name with NAME=DIR"
            )
        found[name] = path
    return found


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a checkpoint is loaded. `pocketvlm.load` explains each; sizes are bytes."""

    group: ClassVar[str] = "Engine"

    revision: Annotated[
        str | None, Option("Branch, tag or commit of a model on the hub.", metavar="NAME", default="main")
    ] = None
    mmproj: Annotated[
        str | Path | None,
        Option(
            "Vision file of a GGUF model.",
            metavar="FILE",
            default="the one next to the model's file",
            wanted="the path of a file",
        ),
    ] = None
    adapters: Annotated[
        Mapping[str, str | Path] | Sequence[str | Path] | None,
        Option(
            "Adapter (LoRA) to load: its directory, or a hub id; without NAME= it is named by its folder.",
            metavar="[NAME=]DIR",
            default="none",
            flag="adapter",
            item=str,
            check=_are_adapters,
            wanted="directories, in a list or by name",
        ),
    ] = None
    backend: Annotated[Backend, Option("native: C++, CPU. torch: the reference, CPU or GPU.")] = "native"
    weights: Annotated[
        Weights,
        Option(
            "int4: smallest. int8: nearer to the original. bf16, stored: as the checkpoint has them. auto: int8, of a "
            "quantized checkpoint for its dense matrices; as stored where exact."
        ),
    ] = "auto"
    precision: Annotated[
        Precision | None,
        Option("fast: integer products. exact: float32, weights as stored.", default="fast on native, exact on torch"),
    ] = None
    kv_cache_dtype: Annotated[
        KVCacheDtype,
        Option("Type of cached keys and values. int8: half the memory of bf16. auto: bf16; f32 where exact."),
    ] = "auto"
    threads: Annotated[int | None, Option("CPU threads.", low=1, default="physical cores")] = None
    device: Annotated[
        str | None,
        Option(
            "cpu or cuda; with the torch backend only.",
            metavar="NAME",
            default="cuda if there is one, else cpu",
            wanted="'cpu' or 'cuda'",
        ),
    ] = None
    cache: Annotated[
        bool | str | Path,
        Option(
            "Cache quantized weights and tokenizer for fast starts.",
            check=_is_cache,
            wanted="True, False or a directory",
        ),
    ] = True
    memory_limit: Annotated[
        int | None,
        Option(
            "Memory for the state of running and cached prompts.",
            low=1,
            default="half of the machine's",
            flag="memory",
            size=True,
        ),
    ] = None
    prefill_chunk: Annotated[
        int | None,
        Option(
            "Tokens of prompts that one step takes.",
            low=1,
            default=str(DEFAULT_PREFILL_CHUNK),
        ),
    ] = None
    max_model_len: MaxModelLen = None
    max_seqs: Annotated[int | None, MAX_SEQS] = None
    prefix_cache: Annotated[
        int | None,
        Option("Part of that memory for prompts that begin alike.", low=0, default="a quarter, at most 1G", size=True),
    ] = None
    vision_cache: Annotated[
        int | None,
        Option(
            "Memory for the features of images.",
            low=0,
            default=size_text(DEFAULT_VISION_CACHE),
            size=True,
        ),
    ] = None
    vision_cache_dir: Annotated[
        str | Path | None,
        Option(
            "Directory that caches features of images for the next start.",
            metavar="DIR",
            default="nowhere",
            wanted="a directory",
        ),
    ] = None
    vision_cache_disk: Annotated[
        int | None,
        Option(
            "Disk space for the features in that directory.",
            low=0,
            default=size_text(DEFAULT_VISION_CACHE_DISK),
            size=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range, naming option, value and what is allowed."""
        validate(self)
