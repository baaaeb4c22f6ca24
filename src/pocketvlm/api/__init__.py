"""`load()` wires all parts together and returns a `Model`, which asks, chats and streams."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from pocketvlm import backends
from pocketvlm.adapters import Adapter
from pocketvlm.answers.choice import AnswerOptions, Choice, opens_reasoning
from pocketvlm.answers.stream import ChoiceStream
from pocketvlm.api.about import cache_location, describe, scheme_for
from pocketvlm.api.adapters import AdapterInfo, Adapters, open_adapter
from pocketvlm.api.arguments import Arguments
from pocketvlm.api.many import in_order, on_thread, question, questions
from pocketvlm.api.streams import Stream, fold
from pocketvlm.api.wiring import engine_for
from pocketvlm.api.wiring import processor_for as processor_for
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.safetensors import leave
from pocketvlm.checkpoint.hub import resolve, resolve_adapter
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.engine import Engine, EngineDriver, Request
from pocketvlm.errors import InputError, OptionError, PocketVLMError
from pocketvlm.model import MiniCPMV, expected_tensors, tensor_roles
from pocketvlm.options.load import Backend, KVCacheDtype, LoadOptions, Precision, Weights, named_adapters, own_names
from pocketvlm.options.option import names
from pocketvlm.options.request import RequestKeywords
from pocketvlm.processor.messages import as_messages
from pocketvlm.processor.processor import Processor
from pocketvlm.quantize import quantized
from pocketvlm.types import Chunk, Prompt, Result, SamplingParams, View

Progress = Callable[[str, int, int], None]
Messages = Sequence[Mapping[str, Any]]
Media = Sequence[Any]
# After so many, pages of the files that packing has read are unmapped: else all of the files would count as resident.
_TENSORS_UNTIL_UNMAPPED = 16


def load(
    model: str | Path = "nano",
    *,
    revision: str | None = None,
    mmproj: str | Path | None = None,
    adapters: Mapping[str, str | Path] | Sequence[str | Path] | None = None,
    backend: Backend = "native",
    weights: Weights = "auto",
    precision: Precision | None = None,
    kv_cache_dtype: KVCacheDtype = "auto",
    threads: int | None = None,
    device: str | None = None,
    cache: bool | str | Path = True,
    memory_limit: int | None = None,
    prefill_chunk: int | None = None,
    max_model_len: int | None = None,
    max_seqs: int | None = None,
    prefix_cache: int | None = None,
    vision_cache: int | None = None,
    vision_cache_dir: str | Path | None = None,
    vision_cache_disk: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Load a checkpoint: "nano" (embedded), a directory, a GGUF file, or a hub id such as "openbmb/MiniCPM-V-4.6".

    revision: branch, tag or commit on the hub, whose id may name a GGUF file by its type, as in
    "openbmb/MiniCPM-V-4.6-gguf:Q4_K_M". mmproj: the vision file of a GGUF model (None: the one in its folder or
    repository; without one, images are refused). adapters: directories of adapters in PEFT's format, by the names that
    requests use, or a list whose folders name them (docs/adapters.md). backend: "native" (C++, CPU) or "torch" (the
    reference; `device` "cpu" or "cuda"). precision: "exact" is float32 arithmetic on the weights as stored, "fast"
    integer arithmetic on quantized weights; None is "fast" on native and "exact" on torch. weights, with "fast": "int8"
    ("auto" means the same), "int4" (the language model in 4 bits), or "bf16" or "stored" (as stored; if the CPU has
    bfloat16 products, activations are rounded to bfloat16). A quantized checkpoint keeps its quantized tensors: "auto"
    then quantizes only the dense ones, and "int4" and "int8" are refused. kv_cache_dtype: of cached keys and values,
    with "fast": "bf16" ("auto" means the same), "int8" (half the memory) or "f32"; "exact" always has float32. threads:
    CPU threads (None: physical cores). cache: cache quantized weights and tokenizer on disk for the next start, in
    $POCKETVLM_CACHE or ~/.cache/pocketvlm, or in the given directory; failures of the cache become a CacheWarning.
    memory_limit: bytes for the state of running sequences (None: half of the machine's). prefill_chunk: maximum prompt
    tokens of one step. max_model_len: maximum tokens of prompt and answer (None: the model's context). max_seqs:
    requests that run at once (None: 16). prefix_cache: bytes, within memory_limit, for states of shared prompt prefixes
    (None: a quarter of it, at most 1 GiB). vision_cache: bytes of image features cached in memory (None: 128 MiB);
    vision_cache_dir also caches them in a directory for the next start, up to vision_cache_disk bytes (None: 4 GiB).
    progress(stage, done, total) is called with "download" and bytes, then with "load" and tensors. Raises
    CheckpointError, OptionError or BackendError.
    """
    options = LoadOptions(**{name: value for name, value in locals().items() if name in names(LoadOptions)})
    backends.check(backend, threads, device, weights, precision, kv_cache_dtype)
    machine = backends.create(backend, threads, device)
    began = time.perf_counter()
    sources = named_adapters(adapters, str(model))
    for source in sources.values():  # before the model, whose download may take an hour
        resolve_adapter(source)
    path = resolve(model, revision, progress and partial(progress, "download"), mmproj=mmproj)
    checkpoint = open_checkpoint(path, mmproj=mmproj)
    opened = {name: open_adapter(name, each, checkpoint) for name, each in sources.items()}
    scheme = scheme_for(checkpoint, backend, weights, precision, kv_cache_dtype)
    ops = machine.with_scheme(scheme)
    stored = checkpoint.tensors(expected_tensors(checkpoint.model), sparse=not scheme.as_stored)
    tensors = quantized(stored, tensor_roles(checkpoint.model), scheme)
    location = cache_location(cache, str(model), checkpoint)
    packed_from = checkpoint.tensor_files if not scheme.as_stored or checkpoint.quantization is not None else ()

    def loaded(done: int, total: int) -> None:
        if done % _TENSORS_UNTIL_UNMAPPED == 0:
            leave(packed_from)
        if progress is not None:
            progress("load", done, total)

    with ops.weight_cache(location, tensors):
        processor = processor_for(checkpoint, location)
        network = MiniCPMV(checkpoint.model, ops, tensors, loaded)
    leave(packed_from)
    engine = engine_for(network, checkpoint, options)
    loaded_model = Model(str(model), checkpoint, processor, engine, scheme.precision, time.perf_counter() - began)
    for name, adapter in opened.items():
        loaded_model.add_adapter(name, adapter)
    return loaded_model


class Model:
    """A loaded checkpoint. Safe to call from several threads: their requests share the steps of one engine."""

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        processor: Processor,
        engine: Engine,
        precision: Precision,
        load_seconds: float,
    ) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.processor = processor
        self.precision = precision
        self.load_seconds = load_seconds
        self.adapters = Adapters(checkpoint, own_names(name))
        self._driver: EngineDriver | None = EngineDriver(engine)
        self._pool_lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def engine(self) -> Engine:
        """What runs the requests. Step it only while no call of this object is under way."""
        return self.driver.engine

    @property
    def driver(self) -> EngineDriver:
        """What steps the engine: in the threads that call this object, or in its own once it is started."""
        if self._driver is None:
            raise PocketVLMError(f"the model {self.name} is closed: load it again")
        return self._driver

    @property
    def ops(self) -> AnyBackend:
        """The backend's operations."""
        return self.engine.model.backend

    @property
    def sampling_defaults(self) -> SamplingParams:
        """Sampling as the checkpoint's generation_config says; greedy where it does not sample."""
        generation = self.checkpoint.generation
        return SamplingParams(
            temperature=generation.temperature if generation.do_sample else 0.0,
            top_p=generation.top_p if generation.do_sample else 1.0,
            top_k=generation.top_k if generation.do_sample else 0,
            min_p=generation.min_p if generation.do_sample else 0.0,
            repetition_penalty=generation.repetition_penalty,
        )

    @overload
    def ask(
        self,
        text: str,
        images: Media = (),
        *,
        videos: Media = (),
        system: str | None = None,
        **params: Unpack[RequestKeywords],
    ) -> Result: ...
    @overload
    def ask(
        self,
        text: list[Any] | tuple[Any, ...],
        images: Media = (),
        *,
        videos: Media = (),
        system: str | None = None,
        **params: Unpack[RequestKeywords],
    ) -> list[Result]: ...
    @overload
    def ask(
        self,
        text: Iterator[Any],
        images: Media = (),
        *,
        videos: Media = (),
        system: str | None = None,
        **params: Unpack[RequestKeywords],
    ) -> Iterator[Result]: ...
    def ask(
        self,
        text: Any,
        images: Media = (),
        *,
        videos: Media = (),
        system: str | None = None,
        **params: Unpack[RequestKeywords],
    ) -> Any:
        """One question, with images (path, URL, data URI, bytes, PIL image or NumPy array) and videos before the text.

        videos: path, URL, data URI, bytes, folder or list of images, or NumPy array [frames, height, width, 3]. Among
        images, "video:PATH[:fps]" is a video in that place. params: fields of SamplingParams, options of the
        processor, `normalize_newlines`. Raises InputError and OptionError.

        A list or an iterator of questions gives a list or an iterator of results, in order. A question is a text or a
        mapping with "text", "images", "videos" and options of its own; with a list of questions, `images` and `videos`
        may hold a list for each question. All questions share the engine's steps. A question that fails has a result
        with `error`, and the others continue.
        """
        if isinstance(text, str):
            return fold(self.stream(text, images, videos=videos, system=system, **params))
        self._split(params)
        given = {**params, "system": system}
        if isinstance(text, Iterator):
            if images or videos:
                raise InputError("with an iterator of questions, put media into them: {'text': ..., 'images': [...]}")
            return self._many(question(item, given) for item in text)
        return list(self._many(iter(questions(text, given, {"images": images, "videos": videos}))))

    def chat(self, messages: Messages, **params: Unpack[RequestKeywords]) -> Result:
        """The answer to OpenAI-style messages; parts in both spellings, `image` and `image_url`."""
        return fold(self.stream(messages, **params))

    def generate(self, prompt: Prompt, **params: Unpack[RequestKeywords]) -> Result:
        """The answer to a prompt that `processor` made."""
        return fold(self.stream(prompt, **params))

    def stream(
        self,
        request: str | Messages | Prompt,
        images: Media = (),
        *,
        videos: Media = (),
        system: str | None = None,
        progress: Progress | None = None,
        **params: Unpack[RequestKeywords],
    ) -> Stream:
        """Stream the answer in chunks: to a text with images and videos, to messages, or to a Prompt.

        Arguments are checked at once; the work runs as the stream is read. Closing or cancelling it ends the request.
        The last chunk has finish_reason, usage and timings. progress("watch", pictures, of all) is called on another
        thread.
        """
        began = time.perf_counter()
        given = self._split(params)
        if isinstance(request, Prompt):
            if images or videos or system or given.options:
                raise OptionError("a Prompt is already processed: give media, system and processor options to it")
            prompt = request
        elif isinstance(request, str):
            messages = as_messages(request, images, system, videos)
            prompt = self.processor(messages, progress=progress, **given.for_processor)
        else:
            if images or videos or system:
                raise OptionError("with messages, put images, videos and the system prompt into the messages")
            prompt = self.processor(request, progress=progress, **given.for_processor)
        how = AnswerOptions(self.processor.tokenizer, normalize=given.normalize)
        return Stream(self._deltas(prompt, given, how, began), self.load_seconds)

    def deltas(self, prompt: Prompt, *, began: float | None = None, **params: Unpack[RequestKeywords]) -> ChoiceStream:
        """The answer to a prompt for a chat: reasoning separate from text, ended if it only repeats itself.

        began: when the question arrived, of perf_counter. params: fields of SamplingParams, `adapter`,
        `normalize_newlines`.
        """
        given = self._split(params)
        if given.options:
            raise OptionError(f"a Prompt is already processed: give {', '.join(given.options)} to the processor")
        from pocketvlm.parsing.answer import AnswerParser

        thinking = opens_reasoning(prompt)
        how = AnswerOptions(
            self.processor.tokenizer,
            partial(AnswerParser, thinking=thinking),
            thinking=thinking,
            normalize=given.normalize,
            guard=True,
        )
        return self._deltas(prompt, given, how, time.perf_counter() if began is None else began)

    def _deltas(self, prompt: Prompt, given: Arguments, how: AnswerOptions, began: float) -> ChoiceStream:
        request = Request(prompt, given.sampling, self.checkpoint.eos_token_ids, adapter=given.adapter)
        self.engine.check(request)
        return ChoiceStream(self.driver, Choice(0, request, how, began))

    async def aask(self, text: str, images: Sequence[Any] = (), **params: Unpack[RequestKeywords]) -> Result:
        """`ask` for callers with an event loop. Cancelling the task ends the request."""
        return await self._afold(self.astream(text, images, **params))

    async def achat(self, messages: Messages, **params: Unpack[RequestKeywords]) -> Result:
        """`chat` for callers with an event loop."""
        return await self._afold(self.astream(messages, **params))

    def astream(
        self, request: str | Messages | Prompt, images: Sequence[Any] = (), **params: Unpack[RequestKeywords]
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for callers with an event loop: all work, including loading images, runs on a thread."""
        return on_thread(partial(self.stream, request, images, **params), self._threads())

    def add_adapter(self, name: str, adapter: str | Path | Adapter, *, replace: bool = False) -> AdapterInfo:
        """Load an adapter, also while requests run: its directory in PEFT's format, a hub id, or an `Adapter`.

        Requests choose it by `adapter=name`. replace: instead of one of this name, with which running requests end.
        Raises CheckpointError and OptionError; then nothing has changed.
        """
        return self.adapters.add(self.driver, name, adapter, replace)

    def remove_adapter(self, name: str) -> None:
        """Refuse new requests for an adapter; running ones end with it. Raises OptionError for an unknown name."""
        self.adapters.remove(self.driver, name)

    def close(self) -> None:
        """End running requests and release weights and state; the model cannot be used afterwards."""
        if self._driver is not None:
            self._driver.close()
        if self._pool is not None:
            self._pool.shutdown()
        self._driver = None

    def __enter__(self) -> Model:
        """The model itself: `with load(...) as model`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def logits(self, prompt: Prompt, adapter: str | None = None) -> NDArray[np.float32]:
        """Logits float32 [tokens, vocab] at every position of a prompt."""
        return self.driver.call(lambda: self.engine.prompt_logits(prompt, adapter=adapter))

    def encode_images(self, prompt: Prompt, adapter: str | None = None) -> list[NDArray[np.float32]]:
        """Features float32 [tokens, hidden] of each image: overview first, then its slices row by row."""
        views = tuple(view for view in prompt.views if isinstance(view, View))  # those of videos are pending ones
        runner, loaded = self.engine.runner, self.engine.model.adapter(adapter)
        features = self.driver.call(lambda: [self.ops.to_numpy(rows) for rows in runner.encode(views, loaded)])
        grouped = []
        for image in prompt.images:
            count = 1 + (image.grid[0] * image.grid[1] if image.grid else 0)
            grouped.append(np.concatenate(features[:count]))
            features = features[count:]
        return grouped

    def info(self) -> dict[str, Any]:
        """What is loaded and how it runs: sizes, types, kernels and the reasons for them, and the adapters."""
        adapters = [info.to_dict() for info in self.adapters.snapshot().values()]
        return {**describe(self.name, self.checkpoint, self.ops), "adapters": adapters}

    def _many(self, questions: Iterator[dict[str, Any]]) -> Iterator[Result]:
        return in_order((partial(self.stream, **arguments) for arguments in questions), self._width)

    async def _afold(self, chunks: AsyncGenerator[Chunk, None]) -> Result:
        async with aclosing(chunks):
            return fold(iter([chunk async for chunk in chunks]))

    def _threads(self) -> Executor:
        """Threads that read streams for event loops."""
        with self._pool_lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._width, "pocketvlm-stream")
            return self._pool

    @property
    def _width(self) -> int:
        """Requests that the engine runs at once."""
        return self.engine.scheduler.max_seqs

    def _split(self, params: RequestKeywords) -> Arguments:
        return Arguments.of(params, self.sampling_defaults, self.adapters)
