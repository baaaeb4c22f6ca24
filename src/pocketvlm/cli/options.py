"""Options that several commands share are defined here and turned into arguments of the processor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

import typer

from pocketvlm.bytesize import parse_size
from pocketvlm.cli.notices import notices
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions, named_adapters
from pocketvlm.options.media import ImageOptions, VideoOptions
from pocketvlm.options.option import Definition, Option, definition, definitions, refuse_unknown
from pocketvlm.options.request import PROCESSOR_OPTIONS, TemplateOptions, TextOptions
from pocketvlm.options.sampling import SamplingParams

F = TypeVar("F", bound=Callable[..., None])

INPUT, OUTPUT = TemplateOptions.group, "Output"
ENGINE = LoadOptions.group
DEFAULT_MODEL = "nano"
FLAG = ""

MODEL_HELP = 'Model: "nano" (built in), a directory, a GGUF file, or a hub id such as openbmb/MiniCPM-V-4.6.'


def option(*names_and_metavar: str, panel: str, help: str, **more: Any) -> Any:
    """An option: its spellings, the name of its value in --help (FLAG for none), its panel in --help, and its text."""
    *names, metavar = names_and_metavar
    return typer.Option(*names, metavar=metavar, rich_help_panel=panel, help=help, show_envvar=False, **more)


def _debug(context: typer.Context, value: bool) -> bool:
    context.meta["debug"] = value
    return value


def _quiet(context: typer.Context, value: bool) -> bool:
    notices(context).quiet = value
    return value


Image = Annotated[
    list[str] | None,
    option(
        "--image",
        "-i",
        "PATH|URL|-",
        panel=INPUT,
        help="Image: path, URL, data URI, or - for bytes on stdin; video:PATH is a video in this place. Repeatable.",
    ),
]
Video = Annotated[
    list[str] | None,
    option(
        "--video",
        "-v",
        "PATH[:FPS]|URL",
        panel=INPUT,
        help="Video: path, URL, data URI, or a folder of images (FPS is their rate); after the images. Repeatable.",
    ),
]
Prompt = Annotated[str | None, option("--prompt", "-p", "TEXT", panel=INPUT, help="The question; - reads stdin.")]
System = Annotated[str | None, option("--system", "TEXT", panel=INPUT, help="System prompt.")]
Debug = Annotated[
    bool, option("--debug", FLAG, panel=OUTPUT, help="Show the traceback of an error.", callback=_debug, is_eager=True)
]
Quiet = Annotated[
    bool, option("--quiet", "-q", FLAG, panel=OUTPUT, help="Nothing on stderr but errors.", callback=_quiet)
]


def _typed(*owners: type) -> tuple[Definition, ...]:
    return tuple(each for owner in owners for each in definitions(owner) if each.argument is not None)


PROMPT_OPTIONS = _typed(TemplateOptions)
MEDIA_OPTIONS = (
    *_typed(ImageOptions, VideoOptions),
    Definition(
        "processor_kwargs",
        str,
        True,
        None,
        ImageOptions.group,
        Option(
            """These options as one JSON object, e.g. '{"downsample_mode": "4x"}'; single options win.""",
            metavar="JSON",
        ),
    ),
)
SAMPLING_OPTIONS = _typed(SamplingParams)
TEXT_OPTIONS = _typed(TextOptions)


def load_options(*names: str) -> tuple[Definition, ...]:
    """Some options of `load`; without names those that every command with a model has."""
    usual = ("revision", "mmproj", "backend", "weights", "precision", "kv_cache_dtype", "threads", "device", "cache")
    return tuple(definition(LoadOptions, name) for name in names or usual)


ADAPTER_OPTIONS = load_options("adapters")


def json_option(command: str) -> Any:
    """The --json option of a command."""
    return option("--json", FLAG, panel=OUTPUT, help="One JSON object on stdout.", envvar=f"POCKETVLM_{command}_JSON")


def model_argument(command: str) -> Any:
    """The MODEL argument of a command, `nano` if it is left out."""
    return typer.Argument(metavar="MODEL", envvar=f"POCKETVLM_{command}_MODEL", show_envvar=False, help=MODEL_HELP)


def takes(*chosen: Definition) -> Callable[[F], F]:
    """Give a command the parameters of options; their values come as `**values`, None where they are not given.

    In --help a panel's own options of the command come first; the panels Engine and Output are the last.
    """

    def decorate(command: F) -> F:
        signature = inspect.signature(command, eval_str=True)
        parameters = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        parameters += [_parameter(each) for each in chosen]
        ordered = sorted(parameters, key=lambda each: {ENGINE: 1, OUTPUT: 2}.get(_panel(each) or "", 0))
        keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in ordered]
        vars(command)["__signature__"] = signature.replace(parameters=keywords)
        vars(command)["flags"] = {each.name: each.flag for each in chosen if each.argument is not None}
        return command

    return decorate


def given(values: Mapping[str, Any], owner: type) -> dict[str, Any]:
    """The options of a dataclass that were given on the command line, by their names in Python. Raises OptionError."""
    found: dict[str, Any] = {}
    for each in definitions(owner):
        value = values.get(each.argument or "")
        if value is None or (each.item is not None and not value):
            continue
        if each.option.size:
            found[each.name] = parse_size(value, each.flag)
        else:
            found[each.name] = value if each.item is None else tuple(value)
    return found


def _panel(parameter: inspect.Parameter) -> str | None:
    panels = (getattr(info, "rich_help_panel", None) for info in get_args(parameter.annotation))
    return next((panel for panel in panels if panel), None)


def _parameter(each: Definition) -> inspect.Parameter:
    """The command's parameter of an option. Its default is None, so that a command knows what was given."""
    flag, metavar, kind = each.flag, each.option.metavar, each.type
    if each.is_switch:
        kind, metavar = bool, FLAG
        flag = flag if each.default is False else f"{flag}/--no-{flag[2:]}"
    elif each.option.size:
        kind, metavar = str, "SIZE"
    elif each.item is not None:
        kind = list[each.item]  # type: ignore[name-defined]
    elif each.choices:
        metavar = metavar or "|".join(each.choices)
    elif kind in (int, float):
        metavar = metavar or ("N" if kind is int else "X")
    else:
        kind = str
    help = each.help
    if each.item is not None:
        help += " Repeatable."
    if each.default_text:
        help += f" Default: {each.default_text}."
    info = option(flag, metavar, panel=each.group, help=help)
    return inspect.Parameter(
        str(each.argument), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def check(sampling: Mapping[str, Any], engine: Mapping[str, Any]) -> None:
    """Refuse bad values before anything is loaded; `load` and the engine check again."""
    from pocketvlm import backends

    SamplingParams(**sampling)
    loading = LoadOptions(**engine)
    named_adapters(loading.adapters)
    backends.check(
        loading.backend, loading.threads, loading.device, loading.weights, loading.precision, loading.kv_cache_dtype
    )


def one_adapter(adapters: Sequence[str] | None) -> str | None:
    """The name of the only adapter that was given; None without one. Raises OptionError where there are two."""
    names = list(named_adapters(adapters))
    if len(names) > 1:
        raise OptionError(
            f"--adapter is given {len(names)} times, for {' and '.join(names)}: one answers, so give one; pocketvlm "
            "chat and serve take several"
        )
    return names[0] if names else None


def processor_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the processor: the JSON object of --processor-kwargs, overridden by the options that were given."""
    return {
        **_parse(values["processor_kwargs"]),
        **given(values, ImageOptions),
        **given(values, VideoOptions),
        **given(values, TemplateOptions),
    }


def _parse(kwargs: str | None) -> dict[str, Any]:
    values = json_object(kwargs, "--processor-kwargs", '{"downsample_mode": "4x"}')
    refuse_unknown(values, PROCESSOR_OPTIONS, "--processor-kwargs: ")
    return values


def json_object(text: str | None, flag: str, example: str) -> dict[str, Any]:
    """The JSON object that an option holds; {} if it is not given. Raises OptionError."""
    import json

    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise OptionError(f"{flag}: not valid JSON ({error}): write e.g. {flag} '{example}'") from None
    if not isinstance(found, dict):
        wrong = text.strip()[:40]
        raise OptionError(f"{flag}: a JSON object is wanted, not {wrong}: write e.g. {flag} '{example}'")
    return found
