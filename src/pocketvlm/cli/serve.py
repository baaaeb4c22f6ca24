"""The command `pocketvlm serve` starts the HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options
from pocketvlm.cli.notices import notices
from pocketvlm.cli.options import given, load_options, option
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions, named_adapters, served_name
from pocketvlm.options.option import definitions
from pocketvlm.server.settings import Settings, read_file, read_keys

if TYPE_CHECKING:
    from pocketvlm.api import Model

EPILOG = """
Examples:

  pocketvlm serve
  pocketvlm serve openbmb/MiniCPM-V-4.6 --port 8000 --served-model-name minicpm-v
  pocketvlm serve --host 0.0.0.0 --api-key-file keys.txt --allowed-media-domains upload.wikimedia.org
  pocketvlm serve openbmb/MiniCPM-V-4.6 --adapter receipts=adapters/run-3 --adapter adapters/formal
  pocketvlm serve --config serve.yaml

Each option can be set as POCKETVLM_SERVE_<OPTION>, e.g. POCKETVLM_SERVE_PORT=8080, or in the file of --config by its \
name without dashes in front: `max-seqs: 8`. What is typed wins over the environment, that over the file. Sizes may be \
written as 512M or 4G. A key can also be given as POCKETVLM_API_KEY. SIGTERM and Ctrl+C let running requests end.
"""


def _configure(context: typer.Context, value: str | None) -> str | None:
    """Take the settings of a file as defaults."""
    if value is not None:
        known = tuple(str(param.name) for param in context.command.params if param.name != "config")
        context.default_map = {**(context.default_map or {}), **read_file(value, known)}
    return value


_SETTINGS = definitions(Settings)
# `max_seqs` and `max_model_len` are settings of the server.
_LOADING = load_options(
    *(each.name for each in definitions(LoadOptions) if each.name not in {setting.name for setting in _SETTINGS})
)


@options.takes(*_SETTINGS, *_LOADING)
def serve(
    context: typer.Context,
    model: Annotated[str, options.model_argument("SERVE")] = options.DEFAULT_MODEL,
    config: Annotated[
        str | None,
        option(
            "--config",
            "FILE",
            panel="Address",
            help="YAML file with any of these options.",
            callback=_configure,
            is_eager=True,
        ),
    ] = None,
    api_key_file: Annotated[
        str | None,
        option(
            "--api-key-file",
            "FILE",
            panel="Who may do what",
            help="Keys of those who may call, one a line.",
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Serve a model over HTTP: OpenAI's, Anthropic's and Ollama's interfaces, for many clients at once.

    It listens on this machine only, unless --host says otherwise; then a key is needed.
    """
    import os

    from pocketvlm.cli.terminal import Activity

    chosen = given(values, Settings)
    paths = tuple(str(Path(text).expanduser()) for text in chosen.pop("allowed_media_path", ()))
    if "adapter_dir" in chosen:
        chosen["adapter_dir"] = str(Path(chosen["adapter_dir"]).expanduser())
    settings = Settings(**chosen, allowed_media_path=paths, api_keys=read_keys(api_key_file, os.environ))
    try:
        from pocketvlm.server import run
        from pocketvlm.server.logs import Log
    except ImportError as error:
        raise OptionError(
            f'the server needs {error.name}, which is not installed: pip install "pocketvlm[serve]"'
        ) from None
    adapters = named_adapters(given(values, LoadOptions).get("adapters"), model)
    settings.check_adapters(adapters, settings.served_model_name or (served_name(model),))
    listener = run.bind(settings)
    with Activity(quiet) as activity:
        from pocketvlm.api import load

        activity.say(f"loading {model}")
        loading = {**given(values, LoadOptions), "max_seqs": settings.max_seqs}
        loaded = load(model, progress=activity.loading(model), **loading)
    requests = Log(settings.log)
    notices(context).write = requests.warning
    run.serve(loaded, settings, listener, lambda url: None if quiet else _ready(url, loaded, settings), requests)


def _ready(url: str, model: Model, settings: Settings) -> None:
    """One line on stderr: address, model, kernels, memory, limits."""
    import sys

    from pocketvlm.cli.terminal import printable

    backend = model.ops.describe()
    kernels = " ".join(
        str(backend[name]).partition(" (")[0] for name in ("backend", "isa", "weights") if name in backend
    )
    text = model.checkpoint.model.text
    length = min(settings.max_model_len or text.max_position_embeddings, text.max_position_embeddings)
    memory = model.engine.memory.limit
    count = len(settings.api_keys)
    keys = f"{count} key{'s' if count > 1 else ''}" if count else "no key needed"
    names = ", ".join(model.adapters)
    threads = str(backend.get("threads", "")).partition(" (")[0]
    line = (
        f"serving {model.name} at {url}: {kernels}, {threads} threads, {readable_size(memory)} of state, "
        f"{settings.max_seqs} answers at once of {length} tokens, {f'adapters {names}, ' if names else ''}{keys}; "
        f"{url}/docs"
    )
    print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
