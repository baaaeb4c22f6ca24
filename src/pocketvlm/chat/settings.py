"""The chat's settings have names, parse typed values, and become the parameters of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.options.media import IMAGE_OPTIONS, MEDIA_OPTIONS, ImageOptions, VideoOptions
from pocketvlm.options.option import Definition, Option, definitions
from pocketvlm.options.request import SAMPLING_OPTIONS, AdapterOptions, TemplateOptions, TextOptions, over_defaults
from pocketvlm.options.sampling import SamplingParams
from pocketvlm.suggest import nearest

_YES, _NO = ("on", "yes", "true", "1"), ("off", "no", "false", "0")
_SYSTEM = Definition("system", str, True, None, "", Option("What the model is told before everything.", default="none"))
# Every option of a request that the chat shows, by the name of its setting.
SETTINGS: dict[str, Definition] = {
    each.setting: each
    for owner in (SamplingParams, ImageOptions, VideoOptions, TemplateOptions, AdapterOptions, TextOptions)
    for each in definitions(owner)
    if each.setting is not None
} | {"system": _SYSTEM}


def wanted(setting: Definition) -> str:
    """The values of a setting in words, as they are typed."""
    if setting.item is not None:
        return "a text"
    return "on or off" if setting.is_switch else " or ".join(setting.choices) or setting.wanted


def _read(setting: Definition, text: str) -> Any:
    """The value that was typed. Raises ValueError."""
    if setting.is_switch:
        if text.lower() not in _YES + _NO:
            raise ValueError
        return text.lower() in _YES
    if setting.item is not None:
        return (text.encode().decode("unicode_escape") if "\\" in text else text,)
    return text if setting.choices else setting.type(text)


class Settings:
    """The values that the user chose; all others are the checkpoint's."""

    def __init__(
        self,
        defaults: SamplingParams,
        config: ProcessorConfig,
        given: Mapping[str, Any],
        adapters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """given: arguments of `Model.stream`, by its names. adapters: the options of each loaded adapter by its name,
        defaults while it answers. Raises OptionError.
        """
        self._defaults = defaults
        self._config = config
        self._adapters = adapters or {}
        self.given = dict(given)
        self._check(self.given)

    @staticmethod
    def named(name: str) -> str:
        """The name of a setting as the table has it. Raises OptionError."""
        key = name.lower().replace("-", "_")
        key = {setting.name: known for known, setting in SETTINGS.items()}.get(key, key)
        if key not in SETTINGS:
            begun = next((known for known in SETTINGS if known.startswith(key)), None)
            near = begun or nearest(key, SETTINGS)
            hint = f"did you mean {near!r}?" if near else "/set shows them all"
            raise OptionError(f"there is no setting {name!r}: {hint}")
        return key

    def change(self, name: str, text: str) -> None:
        """Give a setting a value as it was typed; `default` takes it back. Raises OptionError."""
        name = self.named(name)
        setting = SETTINGS[name]
        option = setting.name
        changed = {key: value for key, value in self.given.items() if key != option}
        if text.lower() != "default":
            try:
                changed[option] = _read(setting, text)
            except ValueError:
                raise OptionError(f"{name}={text!r} is not supported: give {wanted(setting)}") from None
        try:
            self._check(changed)
        except OptionError as error:
            raise OptionError(str(error).removeprefix("options: ").replace(f"{option}=", f"{name}=")) from None
        self.given = changed

    def value(self, name: str) -> str:
        """The current value of a setting, for people; in brackets if the user did not choose it."""
        setting = SETTINGS[name]
        if setting.name in self.given:
            return _shown(self.given[setting.name])
        if setting.name in self._options_of_adapter():
            return f"({_shown(self._options_of_adapter()[setting.name])})"
        if setting.name in IMAGE_OPTIONS:
            return f"({_shown(getattr(ImageOptions.resolve(self._config, {}), setting.name))})"
        if setting.name in SAMPLING_OPTIONS and setting.name != "seed":
            return f"({_shown(getattr(self._defaults, setting.name))})"
        return f"({setting.default_text or _shown(setting.default)})"

    @property
    def media_options(self) -> dict[str, Any]:
        """Options of the processor for images and videos."""
        return {name: value for name, value in self._over_adapter(self.given).items() if name in MEDIA_OPTIONS}

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self.given.get("system")

    @property
    def greedy(self) -> bool:
        """Whether the same prompt gives the same answer."""
        temperature = self.given.get("temperature", self._defaults.temperature)
        return bool(temperature == 0) or self.given.get("seed") is not None

    def arguments(self) -> dict[str, Any]:
        """For the processor and for sampling together: all but the system prompt."""
        return {name: value for name, value in self._over_adapter(self.given).items() if name != "system"}

    def _options_of_adapter(self) -> Mapping[str, Any]:
        return self._adapters.get(self.given.get("adapter", ""), {})

    def _over_adapter(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options over those of the adapter that was chosen."""
        return over_defaults(self._adapters.get(given.get("adapter", ""), {}), given)

    def _check(self, given: Mapping[str, Any]) -> None:
        sampling = {name: value for name, value in given.items() if name in SAMPLING_OPTIONS}
        SamplingParams(**sampling)
        name = given.get("adapter")
        if name is not None and name not in self._adapters:
            known = ", ".join(self._adapters)
            way = f"give {known}, or default for the model itself" if known else "start the chat with --adapter DIR"
            raise OptionError(f"adapter={name!r} is not loaded: {way}")
        media = {name: value for name, value in self._over_adapter(given).items() if name in MEDIA_OPTIONS}
        VideoOptions.resolve(self._config, media)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or "none"
    return str(value)
