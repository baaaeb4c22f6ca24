"""All places where options appear agree with the definitions: Python, command line, YAML, server, chat, docs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, Unpack, get_args, get_origin, get_type_hints

import pytest
import typer

from pocketvlm import api
from pocketvlm.api.llm import LLM
from pocketvlm.chat.settings import SETTINGS
from pocketvlm.cli.app import app
from pocketvlm.cli.options import given
from pocketvlm.config import ProcessorConfig
from pocketvlm.interfaces.schemas.common import Sampling
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.media import MEDIA_OPTIONS, ImageOptions, VideoOptions
from pocketvlm.options.option import Definition, definition, definitions, names
from pocketvlm.options.reference import reference
from pocketvlm.options.request import (
    PROCESSOR_OPTIONS,
    REQUEST_OPTIONS,
    AdapterOptions,
    MediaKeywords,
    RequestKeywords,
    TemplateOptions,
    TextOptions,
)
from pocketvlm.options.sampling import SamplingParams
from pocketvlm.processor.processor import Processor
from pocketvlm.server.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(api.__file__).parents[1]
REQUEST = (SamplingParams, ImageOptions, VideoOptions, TemplateOptions, AdapterOptions, TextOptions)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# What each command takes, and the dataclasses whose options all appear there.
TAKEN = {"run": REQUEST, "chat": REQUEST, "tokens": (ImageOptions, VideoOptions), "serve": (Settings, LoadOptions)}
ON_COMMANDS = [
    (command, owner, each)
    for command, owners in TAKEN.items()
    for owner in owners
    for each in definitions(owner)
    if each.argument is not None
]
ids = [f"{command}-{each.name}" for command, _, each in ON_COMMANDS]


def members(hint: Any) -> set[Any]:
    """The types that a hint admits; a sequence for a tuple of values."""
    found = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(each) or each for each in found}


def sample(each: Definition) -> tuple[str, Any]:
    """A value that is not the default: as text, and as the option's type."""
    if each.is_switch:
        return ("false", False) if each.default is True else ("true", True)
    if each.choices:
        value = next(choice for choice in each.choices if choice != each.default)
        return value, value
    if each.option.size:
        return "3M", 3 << 20
    if each.name == "ollama_version":
        return "1.2.3", "1.2.3"
    if each.type in (int, float):
        value = each.type(3) if each.option.high is None or each.option.high >= 3 else each.type(each.option.high)
        return str(value), value
    if each.item is not None:
        return ("7", (7,)) if each.item is int else ("text", ("text",))
    return "text", "text"


def context(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The parameters that a command is called with."""
    prefix = {"auto_envvar_prefix": f"POCKETVLM_{command.upper()}"}
    parsed: dict[str, Any] = COMMANDS[command].make_context(command, list(arguments), **prefix).params
    return parsed


@pytest.mark.parametrize(("command", "owner", "each"), ON_COMMANDS, ids=ids)
def test_the_command_line_and_the_environment_set_every_option(
    command: str, owner: type, each: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = sample(each)
    typed = [each.flag, text]
    if each.is_switch:
        typed = [each.flag if value else f"--no-{each.flag[2:]}"]
    assert given(context(command, typed), owner) == {each.name: value}
    assert given(context(command, []), owner) == {}
    monkeypatch.setenv(each.environment(command), text)
    assert given(context(command, []), owner) == {each.name: value}


@pytest.mark.parametrize(("command", "owner", "each"), ON_COMMANDS, ids=ids)
def test_help_says_what_the_definition_says(command: str, owner: type, each: Definition) -> None:
    parameter = next(param for param in COMMANDS[command].params if param.name == each.argument)
    assert parameter.help.startswith(each.help)
    assert each.default_text in parameter.help
    assert parameter.rich_help_panel == each.group


@pytest.mark.parametrize("spelling", ["dashes", "underscores"])
@pytest.mark.parametrize("owner", [Settings, LoadOptions])
def test_a_yaml_file_sets_every_option_of_the_server(owner: type, spelling: str, tmp_path: Path) -> None:
    for each in definitions(owner):
        text, value = sample(each)
        key = str(each.argument).replace("_", "-") if spelling == "dashes" else str(each.argument)
        file = tmp_path / "serve.yaml"
        file.write_text(f"{key}: {[text] if each.item is not None else text}\n")
        assert given(context("serve", ["--config", str(file)]), owner) == {each.name: value}


def test_no_two_options_have_one_name() -> None:
    for owners in (REQUEST, (LoadOptions,), (Settings,)):
        for attribute in ("name", "argument"):
            found = [getattr(each, attribute) for owner in owners for each in definitions(owner)]
            known = [name for name in found if name is not None]
            assert len(known) == len(set(known))


def test_load_has_every_option_with_its_default_and_type() -> None:
    hints = get_type_hints(api.load)
    parameters = inspect.signature(api.load).parameters
    assert [name for name in parameters if name not in ("model", "progress")] == list(names(LoadOptions))
    for each in definitions(LoadOptions):
        assert parameters[each.name].default == each.default, each.name
        assert hints[each.name] == get_type_hints(LoadOptions)[each.name], each.name
        assert re.search(rf"\b{each.name}\b", api.load.__doc__ or ""), each.name
    quantized = get_args(get_args(get_type_hints(LLM.__init__)["quantization"])[0])
    assert {*quantized, "auto", "bf16", "stored"} == set(definition(LoadOptions, "weights").choices)
    taken = {"revision", "max_model_len"} & set(inspect.signature(LLM).parameters)
    assert taken <= set(names(LoadOptions))


@pytest.mark.parametrize("method", ["ask", "chat", "generate", "stream", "deltas", "aask", "achat", "astream"])
def test_calls_of_a_model_have_typed_keywords(method: str) -> None:
    assert get_type_hints(getattr(api.Model, method))["params"] == Unpack[RequestKeywords]


def test_keywords_are_the_options_of_a_request_and_of_media() -> None:
    assert set(RequestKeywords.__annotations__) == set(REQUEST_OPTIONS)
    assert set(MediaKeywords.__annotations__) == set(MEDIA_OPTIONS)
    assert get_type_hints(Processor.__call__)["options"] == Unpack[MediaKeywords]
    assert {*names(TemplateOptions)} < set(inspect.signature(Processor.__call__).parameters)
    hints = get_type_hints(RequestKeywords)
    for owner in REQUEST:
        for each in definitions(owner):
            wanted = members(each.type) if each.item is None else {Sequence}
            # One text may stand for several.
            also = {str} if each.name == "stop" else set()
            assert members(hints[each.name]) == {*wanted, *also, type(None)}, each.name


def test_the_server_takes_every_option_of_sampling() -> None:
    special = {"logprobs"}  # a switch and a number in OpenAI's interfaces
    assert set(names(SamplingParams)) - special <= set(Sampling.model_fields)
    for each in definitions(SamplingParams):
        if each.name not in special:
            description = Sampling.model_fields[each.name].description or ""
            assert description.startswith(each.help), each.name
            assert each.wanted[1:] in description, each.name


def test_the_server_gives_sampling_params_every_option() -> None:
    """A field that the schema has but forgets to pass on would be ignored in silence."""
    body = {"logit_bias": {"5": 1.0}, "stop": "a", "stop_token_ids": [7], "ignore_eos": True, "max_tokens": 9}
    rest = {each.name: sample(each)[1] for each in definitions(SamplingParams) if each.name not in (*body, "logprobs")}
    sent = Sampling.model_validate({**body, **rest})
    assert set(sent.sampling()) == set(names(SamplingParams)) - {"logprobs"}


def test_the_engine_or_the_answer_reads_every_option_of_sampling() -> None:
    """An option that is defined and accepted everywhere but that no code reads would be ignored in silence."""
    files = [file for folder in ("engine", "answers") for file in (PACKAGE / folder).glob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert set(names(SamplingParams)) <= read, "engine/sampler.py, or what ends an answer, must read it"


def test_the_servers_page_lists_every_option_of_sampling() -> None:
    page = (DOCS / "server.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(\w+)`", page.partition("\n## Chat\n")[2].partition("\n## ")[0])
    assert set(names(SamplingParams)) <= set(listed), "list it under Chat in docs/server.md"


def test_the_chat_sets_every_option_with_a_setting() -> None:
    defined = {each.setting for owner in REQUEST for each in definitions(owner) if each.setting is not None}
    assert defined | {"system"} == set(SETTINGS)
    assert {setting.name for setting in SETTINGS.values()} <= {*REQUEST_OPTIONS, "system"}


def test_checkpoints_and_requests_have_the_same_defaults_for_images() -> None:
    ours = {each.name: each.default for each in fields(ImageOptions)}
    theirs = {each.name: each.default for each in fields(ProcessorConfig)}
    assert {name: ours[name] for name in ours.keys() & theirs.keys()} == {
        name: theirs[name] for name in ours.keys() & theirs.keys()
    }
    assert ours.keys() - theirs.keys() == {"alpha"}


def test_the_page_of_options_is_up_to_date() -> None:
    page = (DOCS / "options.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m pocketvlm.options.reference > docs/options.md"


def test_the_servers_page_has_the_right_defaults() -> None:
    """Rows of the form: | what | `--flag`, ... | default, ... | then |"""
    known = {each.flag: each.default_text for each in definitions(Settings)}
    page = (DOCS / "server.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]*\| ((?:`--[a-z-]+`(?:, )?)+) \| ([^|]+) \|", page, re.MULTILINE)
    assert len(rows) > 8
    for flags, defaults in rows:
        shown = [default.removesuffix(" s") for default in defaults.split(", ")]
        assert [known[flag] for flag in re.findall(r"`(--[a-z-]+)`", flags)] == shown


def test_the_processor_takes_what_python_gives_it() -> None:
    assert set(PROCESSOR_OPTIONS) == {*MEDIA_OPTIONS, *names(TemplateOptions)}
