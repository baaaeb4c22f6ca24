"""`find_format` finds the format of a checkpoint's weights from its configuration; one line a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pocketvlm.checkpoint.formats.autoround import read_auto_round
from pocketvlm.checkpoint.formats.awq import read_awq
from pocketvlm.checkpoint.formats.bitsandbytes import read_bitsandbytes
from pocketvlm.checkpoint.formats.compressed_tensors import read_compressed_tensors
from pocketvlm.checkpoint.formats.format import DenseFormat, Entries, Format, Settings
from pocketvlm.checkpoint.formats.fp8 import read_fp8
from pocketvlm.checkpoint.formats.gptq import read_gptq
from pocketvlm.checkpoint.formats.mlx import read_mlx, read_unquantized_mlx
from pocketvlm.checkpoint.formats.modelopt import read_modelopt
from pocketvlm.checkpoint.formats.native import read_native_settings
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.errors import ConfigError
from pocketvlm.fields import shown

# Each reader gets the quantization settings, where they stand (for errors), and the tensors of the files. It returns
# None for settings of another format, and raises ConfigError for a variant of its own that is not supported.
Reader = Callable[[Settings, str, Entries], Format | None]
READERS: dict[str, Reader] = {
    "MLX": read_mlx,
    "bitsandbytes": read_bitsandbytes,
    "FP8": read_fp8,
    "compressed-tensors": read_compressed_tensors,
    "ModelOpt": read_modelopt,
    "AWQ": read_awq,
    "GPTQ": read_gptq,
    "AutoRound": read_auto_round,
    "native": read_native_settings,
}

# Files of their own that tools put the settings in; the sections of config.json come first.
SETTINGS_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def find_format(directory: Path, config: Mapping[str, Any], entries: Entries) -> Format:
    """The format of the weights of a directory. Raises ConfigError for a method that is not supported, by its name.

    config: config.json. entries: the tensors of the files, by the hub's names; empty if they were not read.
    """
    found = quantization_settings(directory, config)
    if found is None:
        return read_unquantized_mlx(entries) or DenseFormat()
    settings, where = found
    if not settings:
        raise ConfigError(
            f"{where} is empty: remove it if the weights are dense, or copy config.json from where they came from"
        )
    for key in ("quant_method", "method"):
        if not isinstance(settings.get(key), str | None):
            raise ConfigError(f"{where}: {key}={shown(settings[key])} is not a name: download or copy the file again")
    for reader in READERS.values():
        if (format_ := reader(settings, where, entries)) is not None:
            return format_
    method = settings.get("quant_method")
    what = "quant_method is missing" if method is None else f"the method {shown(method)} is not supported"
    raise ConfigError(
        f"{where}: {what}: {', '.join(READERS)} are read; use one of these, or the 16-bit checkpoint, e.g. "
        f"openbmb/MiniCPM-V-4.6"
    )


def settings_files(directory: Path) -> tuple[Path, ...]:
    """The files of a directory that may hold quantization settings."""
    return tuple(path for name in ("config.json", *SETTINGS_FILES) if (path := directory / name).is_file())


def quantization_settings(directory: Path, config: Mapping[str, Any]) -> tuple[Settings, str] | None:
    """The quantization settings of a directory and where they stand; None for a dense checkpoint.

    Raises ConfigError for a section that is not an object.
    """
    text = config.get("text_config")
    for section in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "quantization"):
            value = section.get(key)
            if value is None:
                continue
            where = f"{directory / 'config.json'}: {key}"
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}={shown(value)} is not an object: download or copy config.json again")
            return value, where
    for name in SETTINGS_FILES:
        if (directory / name).is_file():
            return read_json(directory / name), str(directory / name)
    return None
