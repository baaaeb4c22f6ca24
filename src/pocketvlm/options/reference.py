"""This module writes docs/options.md: `python -m pocketvlm.options.reference > docs/options.md`."""

from __future__ import annotations

from pocketvlm.options.load import LoadOptions
from pocketvlm.options.media import ImageOptions, VideoOptions
from pocketvlm.options.option import Definition, definitions
from pocketvlm.options.request import AdapterOptions, TemplateOptions, TextOptions
from pocketvlm.options.sampling import SamplingParams

_INTRODUCTION = """\
# Options

Made by `python -m pocketvlm.options.reference > docs/options.md`; a test keeps it up to date.

Each option has one definition in `src/pocketvlm/options/`. Options of a request are keyword arguments of `Model.ask`,
`chat`, `stream` and the other calls of [python.md](python.md), fields of requests to the [server](server.md) (those of
media in `mm_processor_kwargs` or in a part of a message), settings of the [chat](chat.md), and options of the
[command line](cli.md). Options of `load` are keyword arguments of `pocketvlm.load` and `LLM`, and options of the
command line.

An option of the command line can be set by `POCKETVLM_<COMMAND>_<OPTION>` too, and for `pocketvlm serve` in a YAML file
by its name: `--max-tokens` of `pocketvlm run` is `POCKETVLM_RUN_MAX_TOKENS`, `--max-seqs` of `pocketvlm serve` is
`POCKETVLM_SERVE_MAX_SEQS` and the key `max-seqs`. Settings of the server alone are in [cli.md](cli.md). Sizes are
bytes; the command line also takes 512M or 4G.
"""

_TABLES = (
    ("Sampling", SamplingParams),
    ("Images: of a request, and of one image", ImageOptions),
    ("Videos: of a request, and of one video, with those of images", VideoOptions),
    ("Chat template", TemplateOptions),
    ("Adapter", AdapterOptions),
    ("Text of the answer", TextOptions),
    ("Loading a model", LoadOptions),
)


def reference() -> str:
    """The page in Markdown."""
    return "\n".join([_INTRODUCTION, *(line for title, owner in _TABLES for line in _table(title, owner))])


def _table(title: str, owner: type) -> list[str]:
    head = [f"## {title}", "", "| option | accepted | default | command line, chat | |", "|---|---|---|---|---|"]
    return [*head, *(_row(each) for each in definitions(owner)), ""]


def _row(each: Definition) -> str:
    elsewhere = [] if each.argument is None else [f"`{each.flag}`"]
    if each.setting is not None and each not in definitions(LoadOptions):  # the chat sets options of requests
        elsewhere.append(f"`/set {each.setting}`")
    default = each.default_text or (str(each.default).lower() if isinstance(each.default, bool) else "none")
    cells = [f"`{each.name}`", each.wanted, default, ", ".join(elsewhere), each.help]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(reference(), end="")
