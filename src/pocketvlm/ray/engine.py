"""`Engine` is a replica of Ray Serve: one model, behind the same application that `pocketvlm serve` runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, MutableMapping
from dataclasses import fields
from typing import Any

from ray import serve

from pocketvlm.api import Model, load
from pocketvlm.checkpoint.hub import resolve_adapter
from pocketvlm.errors import OptionError, PocketVLMError
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.ray.autoscaling import QUEUED_TOKENS
from pocketvlm.ray.cores import bound
from pocketvlm.ray.options import AppOptions
from pocketvlm.server.app import create_app
from pocketvlm.server.context import Context
from pocketvlm.server.errors import style_of
from pocketvlm.server.logs import Log
from pocketvlm.server.settings import Settings

Headers = list[tuple[bytes, bytes]]


def server_settings(options: AppOptions) -> Settings:
    """Settings of the server in a replica. Raises OptionError by name.

    A replica listens nowhere itself. Host names are checked as those of a local server are: without `allowed_hosts`,
    requests name an address or localhost.
    """
    known = [each.name for each in fields(Settings)]
    for name, value in options.settings.items():
        if name not in known or name in ("host", "port"):
            raise OptionError(f"settings: {name}={value!r} is no setting of a replica: give one of {', '.join(known)}")
    names = {} if options.served_model_name is None else {"served_model_name": (options.served_model_name,)}
    lists = {name: tuple(value) for name, value in options.settings.items() if isinstance(value, list)}
    given: dict[str, Any] = {"ui": False, "drain": options.drain, **names, **options.settings, **lists}
    return Settings(**given)


def load_model(options: AppOptions) -> Model:
    """The model of a replica. Raises RuntimeError, whose text is one line that Ray shows."""
    try:
        for path in options.adapters.values():  # now, because a request that needs one comes much later
            resolve_adapter(path)
        return load(options.model, **{"threads": max(1, int(options.num_cpus)), **options.engine_kwargs})
    except (PocketVLMError, OSError, MemoryError) as error:
        reason = "no memory is left" if isinstance(error, MemoryError) else error
        raise RuntimeError(f"this node cannot load model={options.model!r}: {reason}") from None


class AdapterUses:
    """Adapters of a replica: loaded when a request names one, removed when Ray drops one and no request uses it."""

    def __init__(self, model: Model, paths: Mapping[str, str]) -> None:
        self._model, self._paths = model, paths
        self._uses: Counter[str] = Counter()
        self._dropped: set[str] = set()
        self._lock = threading.Lock()

    def load(self, name: str) -> LoadedAdapter:
        """Load an adapter, unless it is loaded. Raises PocketVLMError where its files do not fit."""
        with self._lock:
            self._dropped.discard(name)
            if name not in self._model.adapters:
                self._model.add_adapter(name, self._paths[name])
        return LoadedAdapter(self, name)

    def drop(self, name: str) -> None:
        """Remove an adapter as soon as no request uses it."""
        with self._lock:
            self._dropped.add(name)
            self._remove_unused(name)

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Keep an adapter for a request."""
        with self._lock:
            self._uses[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._uses[name] -= 1
                self._remove_unused(name)

    def _remove_unused(self, name: str) -> None:
        if name in self._dropped and not self._uses[name]:
            self._dropped.discard(name)
            self._model.remove_adapter(name)


class LoadedAdapter:
    """What Ray holds of an adapter: it calls `__del__` for the one that was used longest ago."""

    def __init__(self, uses: AdapterUses, name: str) -> None:
        self._uses: AdapterUses | None = uses
        self._name = name

    def __del__(self) -> None:
        """Drop the adapter, once."""
        uses, self._uses = self._uses, None
        if uses is not None:
            uses.drop(self._name)


class Engine:
    """Answers HTTP requests that the ingress passes on. Ray calls it on one event loop."""

    def __init__(self, options: AppOptions) -> None:
        self._options = options
        # Before the model: what it loads, and the threads that prepare requests, are counted by the cores it may use.
        self._cores = bound(options.num_cpus if options.bind_cores else None, options.engine_kwargs)
        self._model = load_model(options)
        self._context = Context(self._model, server_settings(options), Log("none"))
        self._application = create_app(self._context)[1]
        self._adapters = AdapterUses(self._model, options.adapters)
        self._name = serve.get_replica_context().replica_id.unique_id.encode()
        self._started = False

    async def http(
        self, key: str, adapter: str, method: str, path: str, query: bytes, headers: Headers, body: bytes
    ) -> AsyncGenerator[Any, None]:
        """The answer to a request: first (status, headers), then chunks of its body.

        key: affinity, which the router reads. adapter: the one that the request names, loaded before the request runs.
        """
        self._start()
        if not adapter:
            async for part in self._answer(method, path, query, headers, body):
                yield part
            return
        with self._adapters.use(adapter):
            try:
                await self.adapter(adapter)
            except PocketVLMError as error:
                failure = ApiError(500, f"adapter {adapter!r} cannot be loaded: {error}", code="adapter_not_loaded")
                yield 500, [(b"content-type", b"application/json"), (b"x-replica", self._name)]
                yield json.dumps(failure.body(style_of(path))).encode()
                return
            async for part in self._answer(method, path, query, headers, body):
                yield part

    async def _answer(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes
    ) -> AsyncGenerator[Any, None]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
        }
        messages: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()
        gone = asyncio.Event()
        sent = False

        async def receive() -> MutableMapping[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._application(scope, receive, messages.put)
            finally:
                messages.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], [*message.get("headers", ()), (b"x-replica", self._name)]
                elif message.get("body"):
                    yield bytes(message["body"])
            await running
        finally:
            gone.set()  # the client has gone, or all is said: the application ends what still runs
            if not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({running}, timeout=self._options.drain)

    async def adapter(self, name: str) -> Any:
        """An adapter of this replica, loaded now if it is not there."""
        raise NotImplementedError

    async def check_health(self) -> None:
        """What Ray asks now and then. Raises if the engine does not answer: Ray then starts another replica."""
        self._start()
        await asyncio.wait_for(asyncio.to_thread(self._model.driver.call, lambda: None), timeout=60)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Prompt tokens that wait for their prefill on this replica."""
        return {QUEUED_TOKENS: float(self._model.driver.stats().queued_tokens)}

    async def __del__(self) -> None:
        """Let running answers end, then release the model."""
        if self._started:
            await self._context.drain()
            await self._context.close()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._context.start()


def engine_class(max_adapters: int) -> type[Engine]:
    """The replica's class, with Ray's multiplexing of so many adapters."""

    class Multiplexed(Engine):
        @serve.multiplexed(max_num_models_per_replica=max_adapters)  # type: ignore[untyped-decorator]
        async def adapter(self, name: str) -> LoadedAdapter:
            """Load an adapter, unless it is loaded."""
            return await asyncio.to_thread(self._adapters.load, name)

    return Multiplexed
