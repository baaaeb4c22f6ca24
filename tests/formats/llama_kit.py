"""llama.cpp through llama-cpp-python: quantizing files, logits of ids, and features of pictures."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import Library

llama_cpp = Library("llama_cpp")
lib: Any = Library("llama_cpp.llama_cpp")

_LOADED: list[Any] = []  # the callback, which must outlive the calls


def start() -> None:
    """Load the backend once, without its log."""
    if not _LOADED:
        _LOADED.append(lib.llama_log_callback(lambda level, text, data: None))
        lib.llama_backend_init()
    lib.llama_log_set(_LOADED[0], ctypes.c_void_p(None))


def quantize(source: Path, target: Path, file_type: int, importance: Mapping[str, int] | None = None) -> None:
    """Let llama.cpp quantize a file. importance: the width of each tensor with an importance matrix, here of ones."""
    start()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    entries = [(name.encode(), np.ones(width, np.float32)) for name, width in (importance or {}).items()]
    kind = params.imatrix._type_
    table = (kind * (len(entries) + 1))()
    for place, (name, numbers) in zip(table, entries, strict=False):
        place.name, place.size = name, numbers.size
        place.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if entries:
        params.imatrix = ctypes.cast(table, ctypes.POINTER(kind))
    assert lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0


class Peer:
    """One text file in llama.cpp. A context manager."""

    def __init__(self, path: Path) -> None:
        start()
        self.model = llama_cpp.Llama(str(path), logits_all=True, n_ctx=512, n_threads=2, verbose=False)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text with control tokens."""
        found: list[int] = self.model.tokenize(text.encode(), add_bos=False, special=True)
        return found

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Of every id, float32 [ids, vocabulary]."""
        self.model.reset()
        self.model.eval(ids.tolist())
        return np.array(self.model.scores[: len(ids)])


class PeerVision:
    """A vision file in llama.cpp. A context manager."""

    def __init__(self, text: Path, mmproj: Path) -> None:
        try:
            from llama_cpp import mtmd_cpp
        except (ImportError, RuntimeError, FileNotFoundError) as error:
            pytest.fail(f"llama-cpp-python was built without libmtmd ({error}): `make test-formats` builds it anew")
        start()
        self.mtmd: Any = mtmd_cpp
        self.model = lib.llama_model_load_from_file(str(text).encode(), lib.llama_model_default_params())
        assert self.model, f"{text} did not load"
        params = self.mtmd.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.n_threads = False, False, 2
        self.handle = self.mtmd.mtmd_init_from_file(str(mmproj).encode(), self.model, params)
        assert self.handle, f"{mmproj} did not load"

    def __enter__(self) -> PeerVision:
        return self

    def __exit__(self, *_: object) -> None:
        self.mtmd.mtmd_free(self.handle)
        lib.llama_model_free(self.model)

    def features(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Of each view of a picture uint8 [height, width, 3], float32 [tokens, width of the language model]."""
        mtmd = self.mtmd
        height, width, _ = pixels.shape
        bitmap = mtmd.mtmd_bitmap_init(width, height, (ctypes.c_uint8 * pixels.size).from_buffer_copy(pixels.tobytes()))
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(marker, len(marker), False, True)
        chunks = mtmd.mtmd_input_chunks_init()
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        assert mtmd.mtmd_tokenize(self.handle, chunks, ctypes.byref(text), bitmaps, 1) == 0
        found = []
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            if mtmd.mtmd_input_chunk_get_type(chunk) != mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                continue
            tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            assert mtmd.mtmd_encode_chunk(self.handle, chunk) == 0
            size = (tokens, lib.llama_model_n_embd_inp(self.model))
            found.append(np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.handle), size).copy())
        mtmd.mtmd_bitmap_free(bitmap)
        mtmd.mtmd_input_chunks_free(chunks)
        return found
