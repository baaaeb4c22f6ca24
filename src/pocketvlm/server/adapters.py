"""`AdapterLoading` loads and unloads adapters for requests, if the server's settings allow it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from pocketvlm.api import Model
from pocketvlm.errors import OptionError, PocketVLMError
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.preparation import RequestBuilder
from pocketvlm.server.settings import Settings
from pocketvlm.suggest import nearest


class AdapterLoading:
    """Changes the adapters of a model, one change at a time. Methods run on the event loop, the work on a thread."""

    def __init__(self, model: Model, builder: RequestBuilder, settings: Settings) -> None:
        self._model, self._builder, self._settings = model, builder, settings
        self._directory = Path(settings.adapter_dir).resolve() if settings.adapter_dir is not None else None
        self._changing = asyncio.Lock()

    def check_allowed(self) -> Path:
        """The directory that adapters may be loaded from. Raises ApiError 403 if requests may not load any."""
        if self._directory is None:
            raise ApiError(
                403,
                "requests may not load or unload adapters here: see --allow-adapter-loading of pocketvlm serve",
                code="adapter_loading_off",
            )
        return self._directory

    async def load(self, name: str, path: str, replace: bool) -> None:
        """Load an adapter while requests run. Raises ApiError; then nothing has changed."""
        root = self.check_allowed()
        async with self._changing:
            self._check_name(name, replace)
            directory = await asyncio.to_thread(below, root, path)
            try:
                await asyncio.to_thread(partial(self._model.add_adapter, name, directory, replace=replace))
            except PocketVLMError as error:
                # Clients know paths as they gave them, not where the directory is.
                text = str(error).replace(f"{root}/", "")
                raise ApiError(400, text, param="lora_path", code="invalid_adapter") from None

    async def unload(self, name: str) -> None:
        """Refuse new requests for an adapter; running ones end with it. Raises ApiError 404."""
        self.check_allowed()
        async with self._changing:
            if name not in self._model.adapters:
                near = nearest(name, self._model.adapters)
                hint = f"did you mean {near!r}?" if near else f"loaded are {', '.join(self._model.adapters) or 'none'}"
                raise ApiError(
                    404,
                    f"lora_name={name[:100]!r}: no such adapter is loaded: {hint}",
                    param="lora_name",
                    code="adapter_not_found",
                )
            await asyncio.to_thread(self._model.remove_adapter, name)

    def _check_name(self, name: str, replace: bool) -> None:
        loaded, limit = self._model.adapters, self._settings.max_adapters
        try:
            self._builder.check_adapter_name(name, f"lora_name={name[:100]!r}")
        except OptionError as error:
            raise ApiError(400, str(error), param="lora_name", code="invalid_adapter_name") from None
        if name in loaded and not replace:
            raise ApiError(
                400,
                f"lora_name={name[:100]!r}: an adapter of this name is loaded: unload it first, or send "
                "load_inplace: true",
                param="lora_name",
                code="adapter_loaded",
            )
        if name not in loaded and len(loaded) >= limit:
            raise ApiError(
                429,
                f"{len(loaded)} adapters are loaded, which is the limit (--max-adapters): unload one",
                code="adapters",
            )


def below(root: Path, text: str) -> Path:
    """The directory that a request names, with the targets of symbolic links, below `root`. Raises ApiError.

    The files in it must lie below `root`, too: adapters in a cache of the hub are links to files elsewhere in it.
    """
    shown = f"lora_path={text[:200]!r}"
    try:
        directory = (root / text).resolve()
        outside = directory == root or not directory.is_relative_to(root)
        is_directory = not outside and directory.is_dir()
        files = list(directory.iterdir()) if is_directory else []
        stray = next((file for file in files if not file.resolve().is_relative_to(root)), None)
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a zero byte
        reason = (
            "a loop of links" if isinstance(error, RuntimeError) else getattr(error, "strerror", None) or str(error)
        )
        raise ApiError(400, f"{shown} cannot be read: {reason}", param="lora_path") from None
    if outside:
        raise ApiError(
            403, f"{shown}: adapters are loaded from below --adapter-dir only", param="lora_path", code="adapter_path"
        )
    if not is_directory:
        raise ApiError(
            404, f"{shown}: there is no such directory below --adapter-dir", param="lora_path", code="adapter_not_found"
        )
    if stray is not None:
        raise ApiError(
            403, f"{shown}: {stray.name} is a link to outside --adapter-dir", param="lora_path", code="adapter_path"
        )
    return directory
