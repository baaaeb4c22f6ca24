"""`Engine.step` admits requests, encodes views or runs one batch, samples, and commits the tokens."""

from __future__ import annotations

import itertools
import os

import numpy as np
from numpy.typing import NDArray

from pocketvlm.adapters import Adapter
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.engine.fitting import ways_to_fit
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.prefix import PrefixCache, chunk_boundaries, entry_keys
from pocketvlm.engine.request import Plan, Request, Sampled, Sequence, StageSeconds, TokenEvent, Work
from pocketvlm.engine.runner import Runner
from pocketvlm.engine.sampler import sample_token
from pocketvlm.engine.scheduler import Scheduler
from pocketvlm.engine.stats import EngineStats
from pocketvlm.engine.vision import Vision
from pocketvlm.errors import OptionError, PocketVLMError, PromptError
from pocketvlm.model import LoadedAdapter, MiniCPMV
from pocketvlm.options.load import DEFAULT_MAX_SEQS, DEFAULT_PREFILL_CHUNK, DEFAULT_VISION_CACHE, LoadOptions
from pocketvlm.types import Prompt, SamplingParams

MAX_PREFIX_CACHE = 1 << 30
# Seconds that a step waits for a video's frames when nothing else is due; new requests are admitted between steps.
_TIMEOUT = 0.05


def default_memory_limit() -> int:
    """Half of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class Engine:
    """Turns many requests into one step, again and again. Not thread-safe: one caller steps it (see `EngineDriver`)."""

    def __init__(
        self,
        model: MiniCPMV,
        memory_limit: int | None = None,
        prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
        *,
        max_model_len: int | None = None,
        max_seqs: int = DEFAULT_MAX_SEQS,
        prefix_cache: int | None = None,
        vision_cache: int = DEFAULT_VISION_CACHE,
        vision_files: FeatureFiles | None = None,
    ) -> None:
        """memory_limit: bytes of state, of sequences and prefix-cache entries together (None: half of the machine's).
        prefill_chunk: prompt tokens that a step takes. max_model_len: prompt and answer together (None: the context of
        the model). max_seqs: sequences that run at once. prefix_cache: bytes of its entries (None: a quarter of the
        limit, at most 1 GiB). vision_cache: bytes of features in memory; vision_files: and on disk.
        """
        context = model.config.text.max_position_embeddings
        limit = default_memory_limit() if memory_limit is None else memory_limit
        prefix_limit = min(limit // 4, MAX_PREFIX_CACHE) if prefix_cache is None else prefix_cache
        LoadOptions(
            memory_limit=limit,
            prefill_chunk=prefill_chunk,
            max_seqs=max_seqs,
            max_model_len=max_model_len,
            prefix_cache=prefix_limit,
            vision_cache=vision_cache,
        )
        if max_model_len is not None and max_model_len > context:
            raise OptionError(f"max_model_len={max_model_len} is more than the model's context of {context}: give less")
        self.model = model
        self.max_model_len = max_model_len or context
        self.memory = Memory(model, limit)
        self.prefix = PrefixCache(self.memory, prefix_limit)
        self.vision = Vision(model, vision_cache, vision_files)
        self.scheduler = Scheduler(self.memory, self.prefix, self.vision, prefill_chunk, max_seqs)
        self.runner = Runner(model, self.memory)
        self.sequences: dict[int, Sequence] = {}
        self._removed: list[LoadedAdapter] = []  # adapters without a name that requests or captured steps may use
        self._numbers = itertools.count()
        self._steps = 0
        self._encoded = self._finished_prefill = self._vision_ran = False

    def check(self, request: Request) -> int:
        """Tokens that a request may generate, at most max_tokens.

        Raises PromptError or OptionError if the request can never run.
        """
        params, prompt = request.params, request.prompt
        max_tokens = min(params.max_tokens, self._room(prompt))
        self._check_memory(prompt, max_tokens)
        self.model.adapter(request.adapter)
        return max_tokens

    def new_number(self) -> int:
        """A number for `add`; may be called from any thread."""
        return next(self._numbers)

    def add(self, request: Request, number: int | None = None) -> int:
        """Queue a request and return its id. Raises PromptError if it can never run.

        number: its id, from `new_number`. Requests of one priority run in the order of their numbers.
        """
        max_tokens, prompt, adapter = self.check(request), request.prompt, self.model.adapter(request.adapter)
        boundaries, ends = chunk_boundaries(len(prompt.ids), prompt.marks, self.scheduler.prefill_chunk)
        sequence = Sequence(
            id=self.new_number() if number is None else number,
            request=request,
            max_tokens=max_tokens,
            random=np.random.default_rng(request.params.seed),
            boundaries=tuple(boundaries),
            keys=entry_keys(prompt, ends, None if adapter is None else adapter.digest),
            adapter=adapter,
        )
        self.sequences[sequence.id] = sequence
        self.scheduler.add(sequence)
        return sequence.id

    def add_adapter(self, name: str, adapter: Adapter | LoadedAdapter, replace: bool = False) -> None:
        """Give new requests an adapter under a name. replace: also under one that is taken.

        Raises OptionError for a name that is taken, and for tensors that do not fit the network; nothing changes then.
        """
        if isinstance(adapter, Adapter):
            adapter = self.model.load_adapter(name, adapter)
        if replace and name in self.model.adapters:
            self.remove_adapter(name)
        self.model.add_adapter(name, adapter)

    def remove_adapter(self, name: str) -> None:
        """Refuse an adapter to new requests. Its memory is free once the requests that use it are released.

        Raises OptionError for an unknown name.
        """
        self._removed.append(self.model.remove_adapter(name))
        self._drop_removed_adapters()

    def _drop_removed_adapters(self) -> None:
        used = {sequence.adapter for sequence in self.sequences.values()}
        for adapter in [adapter for adapter in self._removed if adapter not in used]:
            self.runner.decoding.forget_adapter(adapter)
            self._removed.remove(adapter)

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self.scheduler.waiting or self.scheduler.running)

    def step(self) -> list[TokenEvent]:
        """Encode the views that are due, or run one batch and return its tokens; the two alternate where both are due.

        A nearly finished prefill runs before the next views are encoded. An error of one request ends that request
        alone, with an event that says so.
        """
        failed: list[TokenEvent] = []
        self._constrain(failed)
        self.scheduler.admit()
        self.scheduler.attach_cached_features()
        finishes_prefill = not self._encoded and not self._finished_prefill and self.scheduler.nearly_prefilled()
        if not self._encoded and not finishes_prefill and self._encode_due(failed):
            self._encoded, self._finished_prefill = True, False
            return failed
        plan = self.scheduler.plan()
        if not plan.work:
            self._encode_due(failed, _TIMEOUT)
            return failed
        self._encoded, self._finished_prefill = False, finishes_prefill
        self._steps += 1
        try:
            logits = self.runner.run(plan)
        except Exception as error:  # it may be of any request of the batch, and their states are undefined
            self.memory.release_copies()
            return failed + [self._fail(work.sequence, error) for work in plan.work]
        sampled: dict[int, Sampled] = {}
        for number, row in logits.items():
            try:
                sampled[number] = sample_token(row, self.sequences[number])
            except Exception as error:
                failed.append(self._fail(self.sequences[number], error))
        return failed + self.scheduler.commit(plan, sampled)

    def release(self, number: int, trim: bool = True) -> StageSeconds:
        """Forget a request, ended or not; returns the time it spent in each stage. trim: also call `trim`."""
        sequence = self.sequences.pop(number)
        self.scheduler.remove(sequence)
        if self._removed:
            self._drop_removed_adapters()
        if trim:
            self.trim()
        return sequence.seconds

    @property
    def can_trim(self) -> bool:
        """Whether `trim` would do something."""
        return self._vision_ran and not self.sequences

    def trim(self) -> None:
        """Return memory that vision used to the system, if no request is left. Takes milliseconds."""
        if self.can_trim:
            self.model.backend.return_memory()
            self._vision_ran = False

    @property
    def can_preallocate(self) -> bool:
        """Whether `preallocate` would do something."""
        return not self.sequences and self.memory.can_preallocate(self.prefix.limit)

    def preallocate(self) -> None:
        """Allocate memory in one short action if no request is left, so that the next request need not wait for it."""
        if self.can_preallocate:
            self.memory.preallocate(self.prefix.limit)

    def stats(self, arriving: int = 0) -> EngineStats:
        """The engine's numbers now; may be called from any thread. arriving: requests that are not added yet."""
        memory, prefix, vision, scheduler = self.memory, self.prefix, self.vision, self.scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + arriving,
            queued_tokens=sum(
                max(0, len(each.request.prompt.ids) - each.computed)
                for each in (*scheduler.waiting, *scheduler.running)
            ),
            bytes_used=memory.used,
            bytes_allocated=memory.allocated,
            bytes_limit=memory.limit,
            prefix_checkpoints=len(prefix),
            prefix_bytes=memory.cached,
            prefix_hits=prefix.hits,
            prefix_misses=prefix.misses,
            prefix_reused_tokens=prefix.reused,
            vision_bytes=vision.nbytes,
            vision_disk_bytes=0 if vision.files is None else vision.files.nbytes,
            vision_hits=vision.hits,
            vision_misses=vision.misses,
            preemptions=scheduler.preemptions,
            prompt_tokens=scheduler.prompt_tokens,
            generated_tokens=scheduler.generated_tokens,
            steps=self._steps,
            vision_seconds=vision.seconds,
            prefill_seconds=self.runner.prefill_seconds,
            decode_seconds=self.runner.decode_seconds,
        )

    def prompt_logits(
        self, prompt: Prompt, chunk: int | None = None, adapter: str | None = None
    ) -> NDArray[np.float32]:
        """Logits float32 [tokens, vocab] of every prompt position, in chunks of `chunk` tokens (None: the default)."""
        self._room(prompt, spare=0)
        self._check_memory(prompt, 0)
        chunk = chunk or self.scheduler.prefill_chunk
        total = len(prompt.ids)
        request = Request(prompt, SamplingParams(max_tokens=1), adapter=adapter)
        sequence = Sequence(-1, request, 1, np.random.default_rng(0), adapter=self.model.adapter(adapter))
        sequence.features = dict(enumerate(self.runner.encode(prompt.views, sequence.adapter)))
        if not self.scheduler.reserve(self.memory.pages_for(total), 1):
            raise PromptError(f"{total} tokens do not fit with the running requests: wait for those to end")
        sequence.allocation = self.memory.open()
        self.memory.extend(sequence.allocation, total)
        try:
            parts = []
            for start in range(0, total, chunk):
                stop = min(start + chunk, total)
                plan, rows = Plan((Work(sequence, start, stop),)), np.arange(stop - start, dtype=np.int32)
                parts.append(self.model.backend.to_numpy(self.runner.logits(plan, rows)))
            return np.concatenate(parts)
        finally:
            self.memory.close(sequence.allocation)

    def _constrain(self, failed: list[TokenEvent]) -> None:
        """Make the constraints of new requests."""
        for sequence in list(self.scheduler.waiting):
            if sequence.constraint is None and sequence.request.constraint is not None:
                try:
                    sequence.constraint = sequence.request.constraint()
                except Exception as error:
                    failed.append(self._fail(sequence, error))

    def _encode_due(self, failed: list[TokenEvent], timeout: float = 0.0) -> bool:
        """Encode the views that are due; False if there are none. If they fail together, each is tried alone.

        timeout: seconds to wait for a view that is still being decoded.
        """
        due = self.scheduler.due_views(self.model.backend.patches_at_once, timeout)
        try:
            if due:
                self._vision_ran = True
                self.vision.encode(due)
        except Exception as error:
            if len(due) == 1:
                failed.append(self._fail(due[0][0], error))
                return True
            for sequence, index in due:
                try:
                    if sequence.allocation is not None:
                        self.vision.encode([(sequence, index)])
                except Exception as failure:
                    failed.append(self._fail(sequence, failure))
        return bool(due)

    def _fail(self, sequence: Sequence, error: Exception) -> TokenEvent:
        """End one request with an error."""
        self.scheduler.remove(sequence)
        text = str(error) if isinstance(error, PocketVLMError) else f"{type(error).__name__}: {error}"
        return TokenEvent(sequence.id, -1, "error", error=text, cause=error)

    def _check_memory(self, prompt: Prompt, max_tokens: int) -> None:
        """Raise PromptError where the state of prompt and answer can never fit."""
        need = self.memory.bytes_for(len(prompt.ids) + max_tokens)
        if need > self.memory.limit:
            raise PromptError(
                f"the prompt has {len(prompt.ids)} tokens and max_tokens is {max_tokens}: their state takes "
                f"{need / 2**20:.0f} MiB, the limit is {self.memory.limit / 2**20:.0f} MiB; lower max_tokens, use "
                "fewer or smaller images, or raise the memory limit"
            )

    def _room(self, prompt: Prompt, spare: int = 1) -> int:
        """How many tokens of answer fit into the context. Raises PromptError if the prompt cannot run."""
        vocab, total, limit = self.model.config.text.vocab_size, len(prompt.ids), self.max_model_len
        if total == 0:
            raise PromptError("the prompt has no tokens: give it some text or an image")
        if total + spare > limit:
            raise PromptError(
                f"the prompt has {total} tokens but the model's context holds {limit}: "
                f"{ways_to_fit(prompt, limit - spare)}"
            )
        if int(prompt.ids.max()) >= vocab or int(prompt.ids.min()) < 0:
            raise PromptError(f"the prompt has a token id outside 0..{vocab - 1}")
        if any(a >= b for a, b in itertools.pairwise((0, *prompt.marks))) or max(prompt.marks, default=0) > total:
            raise PromptError(f"the prompt's marks {prompt.marks} must ascend, from 1 to its {total} tokens")
        modes = self.model.config.downsample_modes
        _check_positions(prompt, self.model)
        for index, view in enumerate(prompt.views):
            if view.downsample_mode not in modes:
                raise PromptError(
                    f"view {index} has downsample_mode {view.downsample_mode!r}, but the vision tower runs "
                    f"{' or '.join(modes)}"
                    if modes
                    else "the prompt has views, but the model has no vision tower"
                )
            per_token = 16 if view.downsample_mode == "16x" else 4
            if view.tokens * per_token != view.rows * view.cols or not 0 <= view.start <= total - view.tokens:
                raise PromptError(
                    f"view {index} has {view.rows} x {view.cols} patches and {view.tokens} placeholders from "
                    f"{view.start} on: they do not fit each other, or the prompt of {total} tokens"
                )
        return limit - total


def _check_positions(prompt: Prompt, model: MiniCPMV) -> None:
    """Raise PromptError for a prompt whose positions are those of another family."""
    positions, family = prompt.positions, model.config.family
    if positions is None:
        fits = not (model.rotary_axes and prompt.views)
    else:
        fits = positions.values.shape == (*model.rotary_axes, len(prompt.ids))
    if not fits:
        found = "none" if positions is None else f"those of shape {list(positions.values.shape)}"
        raise PromptError(
            f"the prompt of {len(prompt.ids)} tokens and {len(prompt.views)} views has no positions for {family.name}, "
            f"but {found}: make it with this model's processor"
        )
