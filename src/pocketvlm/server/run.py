"""`serve` binds the address, loads the model, and answers requests until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from pocketvlm.api import Model
from pocketvlm.errors import OptionError
from pocketvlm.server.app import create_app
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Log
from pocketvlm.server.protocol import limited
from pocketvlm.server.settings import Settings

_SLACK = 5.0  # seconds beyond the drain time, for answers to get out


def bind(settings: Settings) -> socket.socket:
    """A listening socket at the server's address. Raises OptionError where that is not possible."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        # asyncio switches off Nagle's delay where the socket says TCP; else tokens wait 40 ms for acknowledgements.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}: see --host, --port"
        ) from None
    listener.set_inheritable(False)
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, with our own way to stop: SIGTERM and SIGINT finish what runs, a second SIGINT does not."""

    def __init__(self, context: Context, log_level: int = logging.ERROR) -> None:
        settings = context.settings
        self.context = context
        self.app, middleware = create_app(context)
        logging.getLogger("uvicorn").setLevel(log_level)
        super().__init__(
            uvicorn.Config(
                middleware,
                loop="asyncio",
                http=limited(settings.max_header_bytes, settings.header_timeout),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=log_level,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(settings.keep_alive) or 1,
                timeout_graceful_shutdown=int(settings.drain + _SLACK),
                backlog=1024,
            )
        )
        self._drain: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes or `should_exit` is set."""
        self.context.start()
        try:
            await super().serve(sockets)
        finally:
            await self.context.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests end, in the time that they are given."""
        self.context.draining = True
        draining = asyncio.create_task(self.context.drain())
        try:
            await super().shutdown(sockets)
        finally:
            draining.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: stop; the second Ctrl+C: at once."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
            for run in list(self.context.runs):
                run.cancel()
        self.should_exit = True


@contextmanager
def uploads_in(data_dir: Path | None) -> Iterator[None]:
    """Let uploads on their way go to a directory of data, since the system's may be small. TMPDIR wins."""
    before = tempfile.tempdir
    if data_dir is not None and not os.environ.get("TMPDIR"):
        tempfile.tempdir = str(data_dir)
    try:
        yield
    finally:
        tempfile.tempdir = before


def serve(model: Model, settings: Settings, listener: socket.socket, ready: Callable[[str], None], log: Log) -> None:
    """Answer requests on a socket until SIGTERM or SIGINT. `ready` is called with the address."""
    context = Context(model, settings, log)
    server = Server(context)
    listener.listen(1024)
    ready(address(listener))
    with uploads_in(context.database.directory if context.database.persists else None):
        asyncio.run(server.serve([listener]))
