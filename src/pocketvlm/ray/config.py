"""`PocketVLMEngineProcessorConfig` has the field names of the configurations in `ray.data.llm`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.options.load import DEFAULT_MAX_SEQS
from pocketvlm.ray.loading import check_engine_kwargs, check_model
from pocketvlm.suggest import nearest

# Stages of ray.data.llm that the engine does itself: True and None say nothing new.
_STAGES = ("chat_template_stage", "tokenize_stage", "detokenize_stage", "prepare_multimodal_stage")
# About graphics cards, or metrics that Ray shows by itself: without effect on rows.
_MOOT = ("accelerator_type", "log_engine_metrics", "placement_group_config", "task_type")


@dataclass(frozen=True, slots=True, init=False)
class PocketVLMEngineProcessorConfig:
    """How a processor runs: the model, and the actors that load it.

    model_source: what `pocketvlm.load` takes; every node must be able to read it. engine_kwargs: options of `load`.
    batch_size: rows of one task. concurrency: number of actors, or (smallest, largest). num_cpus: CPUs of one actor,
    which are also its threads. bind_cores: run each actor on that many cores, which no other actor has.
    max_concurrent_batches: tasks that one actor runs at a time; None: enough that the engine never waits for rows, and
    no more, since an actor cannot take the tasks of another. max_tasks_in_flight_per_actor: tasks that Ray assigns to
    an actor ahead of time; None: twice as many. max_pending_requests: rows that one actor works on at a time; None: as
    many as the engine runs, and a quarter more. should_continue_on_error: a row that fails gets `__inference_error__`,
    and the job continues. dynamic_lora_loading_path: a folder of adapters; column `model` names one. runtime_env: of
    the actors.
    """

    model_source: str
    engine_kwargs: Mapping[str, Any]
    batch_size: int
    concurrency: int | tuple[int, int]
    num_cpus: float
    bind_cores: bool
    max_concurrent_batches: int
    max_tasks_in_flight_per_actor: int | None
    max_pending_requests: int | None
    should_continue_on_error: bool
    dynamic_lora_loading_path: str | None
    runtime_env: Mapping[str, Any] | None = field(default=None)

    def __init__(
        self,
        model_source: str = "nano",
        engine_kwargs: Mapping[str, Any] | None = None,
        *,
        batch_size: int = 32,
        concurrency: int | tuple[int, int] = 1,
        num_cpus: float = 1,
        bind_cores: bool = True,
        max_concurrent_batches: int | None = None,
        max_tasks_in_flight_per_actor: int | None = None,
        max_pending_requests: int | None = None,
        should_continue_on_error: bool = False,
        dynamic_lora_loading_path: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Check every field. Raises OptionError, naming field, value and what is allowed."""
        known = [each.name for each in fields(PocketVLMEngineProcessorConfig)]
        for name, value in others.items():
            if name in _STAGES and value in (True, None):
                continue
            if name in _STAGES:
                raise OptionError(f"{name}={value!r}: the engine does this itself, from messages to text: leave it out")
            if name not in _MOOT:
                near = nearest(name, known)
                hint = f"did you mean {near}?" if near else f"give one of {', '.join(known)}"
                raise OptionError(f"{name}={value!r} is no field of this configuration: {hint}")
        pool = (concurrency, concurrency) if isinstance(concurrency, int) else tuple(concurrency)
        if len(pool) != 2 or not all(_is_count(each) for each in pool) or pool[0] > pool[1]:
            raise OptionError(f"concurrency={concurrency!r}: give a number of actors from 1, or (smallest, largest)")
        for name, count in (
            ("batch_size", batch_size),
            ("max_concurrent_batches", 1 if max_concurrent_batches is None else max_concurrent_batches),
            (
                "max_tasks_in_flight_per_actor",
                1 if max_tasks_in_flight_per_actor is None else max_tasks_in_flight_per_actor,
            ),
            ("max_pending_requests", 1 if max_pending_requests is None else max_pending_requests),
        ):
            if not _is_count(count):
                raise OptionError(f"{name}={count!r}: give a whole number from 1")
        if isinstance(num_cpus, bool) or not isinstance(num_cpus, int | float) or num_cpus <= 0:
            raise OptionError(f"num_cpus={num_cpus!r}: give the CPUs of one actor, more than 0")
        if not isinstance(bind_cores, bool):
            raise OptionError(f"bind_cores={bind_cores!r}: give True or False")
        engine = dict(engine_kwargs or {})
        model = engine.pop("model", model_source)
        if model != model_source:
            raise OptionError(f"engine_kwargs: model={model!r} is not model_source={model_source!r}: leave it out")
        check_model(model_source, "model_source")
        check_engine_kwargs(engine)
        engine.setdefault("threads", max(1, int(num_cpus)))
        if max_concurrent_batches is None:
            rows = max_pending_requests or requests_at_once(engine.get("max_seqs") or DEFAULT_MAX_SEQS)
            max_concurrent_batches = 1 + -(-rows // batch_size)  # one more is ready when another ends
        path = dynamic_lora_loading_path
        values = {
            "model_source": model_source,
            "engine_kwargs": engine,
            "batch_size": batch_size,
            "concurrency": concurrency,
            "num_cpus": num_cpus,
            "bind_cores": bind_cores,
            "max_concurrent_batches": max_concurrent_batches,
            "max_tasks_in_flight_per_actor": max_tasks_in_flight_per_actor,
            "max_pending_requests": max_pending_requests,
            "should_continue_on_error": should_continue_on_error,
            "dynamic_lora_loading_path": None if path is None else os.fspath(path),
            "runtime_env": runtime_env,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def requests_at_once(max_seqs: int) -> int:
    """Rows that an actor works on while its engine runs max_seqs of them: the others are prepared to follow."""
    return max_seqs + max(1, max_seqs // 4)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
