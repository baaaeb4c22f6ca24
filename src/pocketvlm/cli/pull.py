"""The command `pocketvlm pull` downloads a model or an adapter and prints its directory."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options

EPILOG = """
Examples:

  pocketvlm pull openbmb/MiniCPM-V-4.6
  pocketvlm pull org/my-adapter
  cd "$(pocketvlm pull openbmb/MiniCPM-V-4.6)"

The path goes to stdout, the size to stderr. A broken download goes on where it stopped. HF_HOME, HF_ENDPOINT, \
HF_TOKEN and HF_HUB_OFFLINE are honoured.
"""


@options.takes(*options.load_options("revision"))
def pull(
    model: Annotated[str, options.model_argument("PULL")],
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Download a model or an adapter (LoRA) from the hub, or find it where it is already."""
    from pocketvlm.checkpoint import hub
    from pocketvlm.cli.terminal import Activity, printable

    with Activity(quiet) as activity:
        activity.say(f"looking for {model}")
        pulled = hub.pull(model, values["revision"], activity.downloading(model))
    print(pulled.path, flush=True)
    if not quiet:
        print(f"{pulled.files} files, {readable_size(pulled.nbytes)}", file=sys.stderr)
        if pulled.adapter:
            base = pulled.base or "MODEL"
            print(printable(f"an adapter: use it with pocketvlm run {base} --adapter {model}"), file=sys.stderr)
