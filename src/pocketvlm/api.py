"""The one place that wires things together: load() gives a Model that asks, chats, streams and shows its parts."""

from __future__ import annotations

import difflib
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm import backends
from pocketvlm.backends import cache as packed_cache
from pocketvlm.backends.ops import Ops, Place
from pocketvlm.backends.options import Backend, Precision, Weights, choose
from pocketvlm.checkpoint.fingerprint import fingerprint
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.huggingface import Checkpoint, read_checkpoint
from pocketvlm.checkpoint.safetensors import leave
from pocketvlm.engine import Engine, Request, TokenEvent
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.engine.memory import page_bytes, slot_bytes
from pocketvlm.errors import CacheWarning, OptionError, PocketVLMError
from pocketvlm.model import MiniCPMV, expected_tensors
from pocketvlm.parsing.newlines import NewlineNormalizer
from pocketvlm.parsing.stops import StopStrings
from pocketvlm.processor.messages import as_messages
from pocketvlm.processor.processor import Processor
from pocketvlm.processor.tokenizer import Detokenizer
from pocketvlm.types import Chunk, FinishReason, MediaSeconds, Prompt, Result, SamplingParams, Timings, Usage, View

Progress = Callable[[str, int, int], None]
Messages = Sequence[Mapping[str, Any]]
Media = Sequence[Any]

SAMPLING_OPTIONS = tuple(field.name for field in fields(SamplingParams))
PROCESSOR_OPTIONS = (
    "downsample_mode",
    "max_slice_nums",
    "slice_mode",
    "use_image_id",
    "scale_resolution",
    "max_num_frames",
    "stack_frames",
    "fps",
    "start",
    "end",
    "tools",
    "enable_thinking",
    "template_kwargs",
)
# Smaller checkpoints are read and encoded in no time.
SMALLEST_KEPT = 64_000_000


def load(
    model: str | Path = "nano",
    *,
    revision: str | None = None,
    backend: Backend = "native",
    weights: Weights = "auto",
    precision: Precision | None = None,
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
    """Load a checkpoint: "nano" (embedded), a directory, or a hub id such as "openbmb/MiniCPM-V-4.6".

    backend: "native" (C++, CPU) or "torch" (the reference; `device` "cpu" or "cuda"). precision: "exact" is float32
    arithmetic on the weights as stored, "fast" integer arithmetic on coded weights; None is "fast" on native, "exact"
    on torch. weights, with "fast": "int8" (what "auto" means), "int4" (the language model in 4 bits) or "bf16" (as
    stored; activations are rounded to bfloat16 too where the CPU multiplies such numbers). threads: CPU threads (None:
    physical cores). cache: keep coded weights and tokenizer on disk for the next start, in $POCKETVLM_CACHE or
    ~/.cache/pocketvlm, or in a directory that is given; what fails there is a CacheWarning. memory_limit: bytes for the
    state of running sequences (None: half of the machine's). prefill_chunk: tokens of a prompt that one step takes.
    max_model_len: most tokens of prompt and answer (None: the model's context). max_seqs: requests that run at once
    (None: 16). prefix_cache: bytes, within memory_limit, of states kept for prompts that begin alike (None: a quarter
    of it, at most 1 GiB). vision_cache: bytes of image features kept in memory (None: 128 MiB); vision_cache_dir keeps
    them in a directory too, for the next start, up to vision_cache_disk bytes (None: 4 GiB). progress(stage, done,
    total) is called with "download" and bytes, then with "load" and tensors. Raises CheckpointError, OptionError or
    BackendError.
    """
    choice = choose(backend, weights, precision)
    if not isinstance(cache, bool | str | Path) or not str(cache):
        raise OptionError(f"cache={cache!r} is not supported: give True, False or a directory")
    ops = backends.create(backend, threads, device, weights, precision)
    began = time.perf_counter()
    checkpoint = read_checkpoint(resolve(model, revision, progress and partial(progress, "download")))
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model), sparse=choice.weights != "bf16")
    place = _place(cache, str(model), checkpoint)
    with ops.keeping(place, tensors):
        processor = processor_for(checkpoint, place)
        network = MiniCPMV(checkpoint.model, ops, tensors, progress and partial(progress, "load"))
    if choice.weights != "bf16":
        leave(tensors.values())
    given = {
        "prefill_chunk": prefill_chunk,
        "max_model_len": max_model_len,
        "max_seqs": max_seqs,
        "prefix_cache": prefix_cache,
        "vision_cache": vision_cache,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if vision_cache_dir is not None:
        limit = {} if vision_cache_disk is None else {"limit": vision_cache_disk}
        owner = f"{fingerprint(checkpoint.tensor_files)} {sorted(_arithmetic(ops).items())}"
        options["vision_files"] = FeatureFiles(Path(vision_cache_dir).expanduser(), owner, **limit)
    engine = Engine(network, memory_limit, **options)
    return Model(str(model), checkpoint, processor, engine, choice.precision, time.perf_counter() - began)


def _arithmetic(ops: Ops) -> dict[str, str]:
    """What of a backend's description its results depend on: all but threads, places, and why it was chosen."""
    kept = ("backend", "device", "isa", "precision", "weights", "arithmetic")
    return {name: text.partition(" (")[0] for name, text in ops.describe().items() if name in kept}


def _place(cache: bool | str | Path, model: str, checkpoint: Checkpoint) -> Place | None:
    """Where the coded weights and the tokenizer of a checkpoint are kept, if anywhere."""
    if cache is False or checkpoint.nbytes < SMALLEST_KEPT:
        return None
    try:
        directory = packed_cache.directory(None if cache is True else cache)
    except OptionError as error:
        if cache is not True:
            raise
        warnings.warn(f"weights and tokenizer of {model} are not kept: {error}", CacheWarning, stacklevel=3)
        return None
    return Place(directory, model, str(checkpoint.path.resolve()), fingerprint(checkpoint.tensor_files))


def processor_for(checkpoint: Checkpoint, place: Place | None = None) -> Processor:
    """The processor of a checkpoint; reads its tokenizer, or what is kept of it in `place`, but none of its tensors."""
    return Processor.from_checkpoint_files(
        checkpoint.processor,
        checkpoint.tokenizer_file,
        checkpoint.tokenizer_config,
        checkpoint.chat_template,
        checkpoint.model.image_token_id,
        place=place,
    )


def describe(name: str, checkpoint: Checkpoint, ops: Ops) -> dict[str, Any]:
    """What a checkpoint is and how a backend would run it, from the files' headers alone."""
    config = checkpoint.model
    return {
        "model": name,
        "path": str(checkpoint.path),
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.nbytes,
        "stored_as": checkpoint.dtypes,
        "vocabulary": config.text.vocab_size,
        "context": config.text.max_position_embeddings,
        "text_layers": len(config.text.layer_types),
        "full_attention_layers": config.text.layer_types.count("full_attention"),
        "text_width": config.text.hidden_size,
        "vision_layers": config.vision.num_hidden_layers,
        "vision_width": config.vision.hidden_size,
        "downsample_mode": checkpoint.processor.downsample_mode,
        "max_slice_nums": checkpoint.processor.max_slice_nums,
        "eos_token_ids": list(checkpoint.eos_token_ids),
        "kv_cache_bytes_per_token": page_bytes(config.text, 1),
        "state_bytes_per_sequence": slot_bytes(config.text),
        "backend": ops.describe(),
    }


@dataclass(slots=True)
class _Call:
    """One running request: its events not yet read, when its prompt arrived, and what was spent on videos before."""

    number: int
    prompt: Prompt
    began: float
    events: deque[TokenEvent]
    before: MediaSeconds


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
        self._engine = engine
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}

    @property
    def engine(self) -> Engine:
        """What runs the requests. Step it only while no call of this object is under way."""
        return self._engine

    @property
    def ops(self) -> Ops:
        """The backend's operations."""
        return self._engine.model.ops

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

    def ask(
        self, text: str, images: Media = (), *, videos: Media = (), system: str | None = None, **params: Any
    ) -> Result:
        """One question, with images (path, URL, data URI, bytes, PIL image or NumPy array) and videos before the text.

        videos: path, URL, data URI, bytes, folder or list of images, or NumPy array [frames, height, width, 3]. Among
        images, "video:PATH[:fps]" is a video in that place. params: fields of SamplingParams, options of the
        processor, `normalize_newlines`. Raises InputError and OptionError.
        """
        return fold(self.stream(text, images, videos=videos, system=system, **params))

    def chat(self, messages: Messages, **params: Any) -> Result:
        """The answer to OpenAI-style messages; parts in both spellings, `image` and `image_url`."""
        return fold(self.stream(messages, **params))

    def generate(self, prompt: Prompt, **params: Any) -> Result:
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
        **params: Any,
    ) -> Iterator[Chunk]:
        """The answer in chunks as they come: to a text with images and videos, to messages, or to a Prompt.

        Arguments are checked at once; the work runs as the iterator is read. Closing it ends the request. The last
        chunk has finish_reason, usage and timings. progress("watch", pictures, of all) is called on another thread.
        """
        began = time.perf_counter()
        sampling, options, normalize = self._split(params)
        if isinstance(request, Prompt):
            if images or videos or system or options:
                raise OptionError("a Prompt is already processed: give media, system and processor options to it")
            prompt = request
        elif isinstance(request, str):
            prompt = self.processor(as_messages(request, images, system, videos), progress=progress, **options)
        else:
            if images or videos or system:
                raise OptionError("with messages, put images, videos and the system prompt into the messages")
            prompt = self.processor(request, progress=progress, **options)
        prepared = Request(prompt, sampling, self.checkpoint.eos_token_ids)
        self._engine.check(prepared)
        return self._chunks(prepared, normalize, began)

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Logits float32 [tokens, vocab] at every position of a prompt."""
        with self._lock:
            return self._engine.prompt_logits(prompt)

    def encode_images(self, prompt: Prompt) -> list[NDArray[np.float32]]:
        """Features float32 [tokens, hidden] of each image: overview first, then its slices row by row."""
        views = tuple(view for view in prompt.views if isinstance(view, View))  # those of videos are pending ones
        with self._lock:
            features = [self.ops.to_numpy(rows) for rows in self._engine.runner.encode(views)]
        grouped = []
        for image in prompt.images:
            count = 1 + (image.grid[0] * image.grid[1] if image.grid else 0)
            grouped.append(np.concatenate(features[:count]))
            features = features[count:]
        return grouped

    def info(self) -> dict[str, Any]:
        """What is loaded and how it runs: sizes, types, kernels and the reasons for them."""
        return describe(self.name, self.checkpoint, self.ops)

    def _split(self, params: dict[str, Any]) -> tuple[SamplingParams, dict[str, Any], bool]:
        known = (*SAMPLING_OPTIONS, *PROCESSOR_OPTIONS, "normalize_newlines")
        for name in params:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                raise OptionError(f"unknown option {name!r}: {hint}")
        given = {name: value for name, value in params.items() if value is not None}
        defaults = self.sampling_defaults
        chosen = {name: given.get(name, getattr(defaults, name)) for name in SAMPLING_OPTIONS}
        chosen["stop"] = (chosen["stop"],) if isinstance(chosen["stop"], str) else tuple(chosen["stop"])
        chosen["stop_token_ids"] = tuple(chosen["stop_token_ids"])
        options = {name: given[name] for name in PROCESSOR_OPTIONS if name in given}
        return SamplingParams(**chosen), options, bool(given.get("normalize_newlines", False))

    def _chunks(self, request: Request, normalize: bool, began: float) -> Iterator[Chunk]:
        with self._lock:
            number = self._engine.add(request)
            call = self._calls[number] = _Call(number, request.prompt, began, deque(), request.prompt.later_seconds())
        detokenizer, stops = Detokenizer(self.processor.tokenizer), StopStrings(request.params.stop)
        normalizer = NewlineNormalizer() if normalize else None
        made, ttft = 0, 0.0
        reason: FinishReason = "abort"
        try:
            while reason == "abort":
                event = self._next(call)
                if event.error is not None:
                    raise event.cause if isinstance(event.cause, PocketVLMError) else PocketVLMError(event.error)
                made += 1
                ttft = ttft or time.perf_counter() - call.began
                ends = event.token_id in request.stop_ids and event.finish_reason is not None
                text = stops.feed("" if ends else detokenizer.add(event.token_id))
                if event.finish_reason is not None:
                    text += stops.feed(detokenizer.flush()) + stops.finish()
                    reason = event.finish_reason
                if stops.matched is not None:
                    reason = "stop"
                if normalizer is not None:
                    text = normalizer.feed(text) + ("" if reason == "abort" else normalizer.finish())
                if reason == "abort":
                    yield Chunk(text, (event.token_id,))
                else:
                    last = Chunk(text, (event.token_id,), reason, *self._account(call, made, ttft))
        finally:
            if reason == "abort":
                self._release(call)
        yield last

    def _next(self, call: _Call) -> TokenEvent:
        """The next event of a call; steps the engine, for everybody, while there is none."""
        while True:
            with self._lock:
                if call.events:
                    return call.events.popleft()
                for event in self._engine.step():
                    if event.request_id in self._calls:
                        self._calls[event.request_id].events.append(event)

    def _release(self, call: _Call) -> Any:
        with self._lock:
            self._calls.pop(call.number, None)
            return self._engine.release(call.number)

    def _account(self, call: _Call, made: int, ttft: float) -> tuple[Usage, Timings]:
        seconds = self._release(call)
        usage = Usage(len(call.prompt.ids), call.prompt.image_tokens, made)
        prompt, later = call.prompt, call.prompt.later_seconds()
        timings = Timings(
            load=self.load_seconds,
            decode_media=prompt.decode_seconds + later.decode - call.before.decode,
            resize=prompt.resize_seconds + later.resize - call.before.resize,
            preprocess=call.prompt.preprocess_seconds,
            vision=seconds.vision,
            prefill=seconds.prefill,
            decode=seconds.decode,
            ttft=ttft,
        )
        return usage, timings


def fold(chunks: Iterator[Chunk]) -> Result:
    """A whole answer out of its chunks."""
    text: list[str] = []
    ids: list[int] = []
    for chunk in chunks:
        text.append(chunk.text)
        ids.extend(chunk.token_ids)
    assert chunk.finish_reason is not None
    assert chunk.usage is not None
    assert chunk.timings is not None
    return Result("".join(text), tuple(ids), chunk.finish_reason, chunk.usage, chunk.timings)
