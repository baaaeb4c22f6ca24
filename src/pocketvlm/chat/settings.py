"""The chat's settings have names, parse typed values, and become the parameters of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.processor.messages import IMAGE_OPTIONS, MEDIA_OPTIONS, VIDEO_OPTIONS
from pocketvlm.processor.sampling import VideoOptions
from pocketvlm.processor.sizes import ImageOptions
from pocketvlm.suggest import nearest
from pocketvlm.types import SamplingParams

_YES, _NO = ("on", "yes", "true", "1"), ("off", "no", "false", "0")


def _switch(text: str) -> bool:
    if text.lower() in _YES + _NO:
        return text.lower() in _YES
    raise ValueError


def _texts(text: str) -> tuple[str, ...]:
    return (text.encode().decode("unicode_escape") if "\\" in text else text,)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its parser, its allowed values, and its help text."""

    read: Callable[[str], Any]
    values: str
    help: str
    option: str = ""


SETTINGS: dict[str, Setting] = {
    "temperature": Setting(float, "0 to 100", "0 always takes the likeliest token"),
    "top_p": Setting(float, "above 0, to 1", "nucleus sampling; 1 is off"),
    "top_k": Setting(int, "0, 1, 2 ...", "most candidates; 0 is off"),
    "min_p": Setting(float, "0 to 1", "least probability beside the best; 0 is off"),
    "repetition_penalty": Setting(float, "above 0", "over prompt and answer; 1 is off"),
    "presence_penalty": Setting(float, "-2 to 2", "over the answer; 0 is off"),
    "frequency_penalty": Setting(float, "-2 to 2", "over the answer; 0 is off"),
    "max_tokens": Setting(int, "1, 2 ...", "most tokens of an answer"),
    "min_tokens": Setting(int, "0, 1 ...", "no end before so many tokens"),
    "seed": Setting(int, "0, 1 ...", "makes answers repeatable"),
    "stop": Setting(_texts, "a text", "an answer ends before it"),
    "mode": Setting(str, "16x or 4x", "16x: few tokens an image; 4x: four times as many", "downsample_mode"),
    "slices": Setting(int, "1 to 9 or more", "most slices of an image; 1 never cuts", "max_slice_nums"),
    "frames": Setting(int, "1, 2 ...", "most frames of a video, evenly spread", "max_num_frames"),
    "stack": Setting(int, "1 to 10", "frames of a video's second; more than 1 share a picture", "stack_frames"),
    "fps": Setting(float, "above 0", "frames of a video that are taken a second"),
    "start": Setting(float, "seconds", "where the part of a video begins that is looked at"),
    "end": Setting(float, "seconds", "where the part of a video ends that is looked at"),
    "use_image_id": Setting(_switch, "on or off", "number the images in the prompt"),
    "alpha": Setting(str, "white or reference", "transparency: on white, or what transformers does with it"),
    "thinking": Setting(_switch, "on or off", "let the model think first", "enable_thinking"),
    "normalize_newlines": Setting(_switch, "on or off", r"turn a literal \n of an answer into a new line"),
    "system": Setting(str, "a text", "what the model is told before everything"),
}
# Values that are used if neither the user nor the checkpoint gives one.
_UNSET = {
    "seed": "random",
    "thinking": "as the template says",
    "normalize_newlines": "off",
    "system": "none",
    "start": "the beginning",
    "end": "the end",
}


class Settings:
    """The values that the user chose; all others are the checkpoint's."""

    def __init__(self, defaults: SamplingParams, config: ProcessorConfig, given: Mapping[str, Any]) -> None:
        """given: arguments of `Model.stream`, by its names. Raises OptionError."""
        self._defaults = defaults
        self._config = config
        self.given = dict(given)
        self._check(self.given)

    @staticmethod
    def named(name: str) -> str:
        """The name of a setting as the table has it. Raises OptionError."""
        wanted = name.lower().replace("-", "_")
        wanted = {setting.option: key for key, setting in SETTINGS.items() if setting.option}.get(wanted, wanted)
        if wanted not in SETTINGS:
            begun = next((key for key in SETTINGS if key.startswith(wanted)), None)
            near = begun or nearest(wanted, SETTINGS)
            hint = f"did you mean {near!r}?" if near else "/set shows them all"
            raise OptionError(f"there is no setting {name!r}: {hint}")
        return wanted

    def change(self, name: str, text: str) -> None:
        """Give a setting a value as it was typed; `default` takes it back. Raises OptionError."""
        name = self.named(name)
        setting = SETTINGS[name]
        option = setting.option or name
        changed = {key: value for key, value in self.given.items() if key != option}
        if text.lower() != "default":
            try:
                changed[option] = setting.read(text)
            except ValueError:
                raise OptionError(f"{name}={text!r} is not supported: give {setting.values}") from None
        try:
            self._check(changed)
        except OptionError as error:
            raise OptionError(str(error).removeprefix("options: ").replace(f"{option}=", f"{name}=")) from None
        self.given = changed

    def value(self, name: str) -> str:
        """The current value of a setting, for people; in brackets if the user did not choose it."""
        option = SETTINGS[name].option or name
        if option in self.given:
            return _shown(self.given[option])
        if option in IMAGE_OPTIONS:
            return f"({_shown(getattr(ImageOptions.resolve(self._config, {}), option))})"
        if option in VIDEO_OPTIONS:
            return f"({_UNSET.get(name) or _shown(getattr(VideoOptions(), option) or 1)})"
        return f"({_UNSET.get(name) or _shown(getattr(self._defaults, option))})"

    @property
    def media_options(self) -> dict[str, Any]:
        """Options of the processor for images and videos."""
        return {name: value for name, value in self.given.items() if name in MEDIA_OPTIONS}

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
        return {name: value for name, value in self.given.items() if name != "system"}

    def _check(self, given: Mapping[str, Any]) -> None:
        sampling = {name: value for name, value in given.items() if name in SamplingParams.__dataclass_fields__}
        SamplingParams(**sampling)
        VideoOptions.resolve(self._config, {name: value for name, value in given.items() if name in MEDIA_OPTIONS})


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or "none"
    return str(value)
