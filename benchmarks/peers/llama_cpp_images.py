"""Images in llama.cpp through its mtmd interface: vision files, and prompts cut into views and marker ids."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from inputs import PATCH, VIEW, random_image
from llama_cpp_text import Floats, Log, PeerError, lib, mtmd
from numpy.typing import NDArray


class Vision:
    """One mmproj file: either of the two modes, as the file says."""

    def __init__(self, path: Path, model: Any, log: Log, threads: int) -> None:
        if mtmd is None:
            raise PeerError("this build of llama-cpp-python has no libmtmd: `pip install llama-cpp-python` builds it")
        self.log, self.width = log, int(lib.llama_model_n_embd_inp(model))
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = False
        params.print_timings = False
        params.n_threads = threads
        self.handle = mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not self.handle:
            raise log.failure(f"{path} did not load")
        with Chunks(self, random_image(VIEW, VIEW, 0)) as chunks:
            per_view = chunks.tokens(chunks.images[0])
        modes = {VIEW * VIEW // PATCH**2 // 16: "16x", VIEW * VIEW // PATCH**2 // 4: "4x"}
        if per_view not in modes:
            raise PeerError(f"{path} makes {per_view} tokens of a view: expected {' or '.join(map(str, modes))}")
        self.mode = modes[per_view]

    def encode(self, chunk: Any) -> None:
        """Run the tower over one view."""
        if mtmd.mtmd_encode_chunk(self.handle, chunk):
            raise self.log.failure("mtmd_encode_chunk failed")

    def features(self, tokens: int) -> Floats:
        """What the last `encode` made, [tokens, width], without a copy."""
        return np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.handle), (tokens, self.width))


class Chunks:
    """An image as llama.cpp prepares it: views and the marker ids around them. A context manager: freed at its end."""

    def __init__(self, vision: Vision, pixels: NDArray[np.uint8]) -> None:
        height, width, _ = pixels.shape
        data = (ctypes.c_uint8 * pixels.size).from_buffer_copy(pixels.tobytes())
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(marker, len(marker), False, True)
        self._handle = mtmd.mtmd_input_chunks_init()
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        status = mtmd.mtmd_tokenize(vision.handle, self._handle, ctypes.byref(text), bitmaps, 1)
        mtmd.mtmd_bitmap_free(bitmap)
        if status:
            self.__exit__()
            raise vision.log.failure(f"mtmd_tokenize failed (status {status})")
        count = mtmd.mtmd_input_chunks_size(self._handle)
        self.all = [mtmd.mtmd_input_chunks_get(self._handle, i) for i in range(count)]
        self.images = [chunk for chunk in self.all if self.is_image(chunk)]

    def __enter__(self) -> Chunks:
        return self

    def __exit__(self, *_: object) -> None:
        mtmd.mtmd_input_chunks_free(self._handle)

    @staticmethod
    def is_image(chunk: Any) -> bool:
        """Whether the chunk is a view, not ids."""
        return mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE

    @staticmethod
    def tokens(chunk: Any) -> int:
        """Tokens that the chunk takes in a prompt."""
        return int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
