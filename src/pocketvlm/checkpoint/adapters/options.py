"""`pocketvlm.json` holds the options that an adapter was trained with, of media and template, and what its base is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketvlm.checkpoint.adapters.base import check_sample
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.errors import CheckpointError, ConfigError, OptionError
from pocketvlm.fields import shown
from pocketvlm.options.media import ImageOptions, VideoOptions
from pocketvlm.options.option import Definition, definition, names
from pocketvlm.options.request import TemplateOptions

VERSION = 1
_DEFINITIONS: Mapping[str, Definition] = {
    **{name: definition(owner, name) for owner in (ImageOptions, VideoOptions) for name in names(owner)},
    "enable_thinking": definition(TemplateOptions, "enable_thinking"),
}


def read_options(path: Path) -> dict[str, Any]:
    """The options of a file, {} where there is no file. Raises as `read_notes` does."""
    return read_notes(path)[0]


def read_notes(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a file and what it says of the base, {} where there is no file. Unknown keys and None are ignored.

    Raises CheckpointError for a damaged file or a newer version, and ConfigError for a value that an option does not
    accept.
    """
    if not path.exists():
        return {}, {}
    data = read_json(path)
    version = data.get("version")
    if version != VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{path}: version={shown(version)} is not supported, only {VERSION} is: install a newer pocketvlm, or "
            f"remove the file and give the options yourself"
        )
    options = data.get("options", {})
    if not isinstance(options, Mapping):
        raise ConfigError(f"{path}: options={shown(options)} is not supported: expected an object")
    return check_options(options, str(path)), check_sample(data.get("base") or {}, str(path))


def check_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The known options with a value. Raises ConfigError, naming option and value, for one that is not accepted."""
    found = {name: options[name] for name in _DEFINITIONS if options.get(name) is not None}
    for name, value in found.items():
        try:
            _DEFINITIONS[name].check(value)
        except OptionError as error:
            raise ConfigError(f"{where}: options: {error}") from None
    return found


def flag(name: str, value: Any) -> str:
    """An option of an adapter as the command line takes it."""
    spelled = _DEFINITIONS[name].flag
    if isinstance(value, bool):
        return spelled if value else f"--no-{spelled.removeprefix('--')}"
    return f"{spelled} {value}"
