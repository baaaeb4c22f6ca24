"""`build_processor` makes a processor for Ray Data: preprocess, answers of actors that load once, postprocess."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import OptionError
from pocketvlm.ray.config import PocketVLMEngineProcessorConfig
from pocketvlm.ray.rows import DATA, ERROR, label
from pocketvlm.ray.worker import Worker

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]
RowFunction = Callable[[Row], Row]
_log = logging.getLogger("pocketvlm.ray")


@dataclasses.dataclass(frozen=True)
class Processor:
    """Maps a data set to one with answers; nothing runs before the data set is consumed. Rows may change order."""

    config: PocketVLMEngineProcessorConfig
    preprocess: RowFunction | None = None
    postprocess: RowFunction | None = None
    preprocess_map_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    postprocess_map_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, dataset: Dataset) -> Dataset:
        """The data set with the columns that `postprocess` returns, or with all columns."""
        from ray.data import ActorPoolStrategy, DataContext

        config = self.config
        checkpoint = DataContext.get_current().checkpoint_config
        id_column = None if checkpoint is None else checkpoint.id_column
        pool = config.concurrency if isinstance(config.concurrency, tuple) else (config.concurrency, config.concurrency)
        _warn_where_actors_take_every_cpu(pool[0], config.num_cpus)
        packed = dataset.map(Before(self.preprocess, id_column), **self.preprocess_map_kwargs)
        answered = packed.map_batches(
            Worker,
            fn_constructor_kwargs={
                "model_source": config.model_source,
                "engine_kwargs": dict(config.engine_kwargs),
                "max_pending_requests": config.max_pending_requests,
                "adapter_dir": config.dynamic_lora_loading_path,
                "should_continue_on_error": config.should_continue_on_error,
                "num_cpus": config.num_cpus if config.bind_cores else None,
            },
            batch_size=config.batch_size,
            batch_format="numpy",
            num_cpus=config.num_cpus,
            compute=ActorPoolStrategy(
                min_size=pool[0],
                max_size=pool[1],
                max_tasks_in_flight_per_actor=config.max_tasks_in_flight_per_actor,
                max_concurrent_calls_per_actor=config.max_concurrent_batches,
            ),
            runtime_env=None if config.runtime_env is None else dict(config.runtime_env),
        )
        after = After(self.postprocess, config.should_continue_on_error)
        return answered.map(after, **self.postprocess_map_kwargs)


def build_processor(
    config: PocketVLMEngineProcessorConfig,
    preprocess: RowFunction | None = None,
    postprocess: RowFunction | None = None,
    preprocess_map_kwargs: Mapping[str, Any] | None = None,
    postprocess_map_kwargs: Mapping[str, Any] | None = None,
    builder_kwargs: Mapping[str, Any] | None = None,
) -> Processor:
    """A processor with the arguments of `ray.data.llm.build_processor`.

    preprocess: a row -> columns that are added to it, for example `messages` and `sampling_params`. postprocess: a row
    with its answer -> the row of the result. Rows with `__inference_error__` skip it. preprocess_map_kwargs,
    postprocess_map_kwargs: of `Dataset.map`. Raises OptionError.
    """
    if not isinstance(config, PocketVLMEngineProcessorConfig):
        raise OptionError(
            f"config is a {type(config).__name__}: give a PocketVLMEngineProcessorConfig, whose model_source and "
            "engine_kwargs are those of pocketvlm.load"
        )
    if builder_kwargs:
        raise OptionError(
            f"builder_kwargs has {', '.join(builder_kwargs)}: give options of templates and images to each row, "
            "in column mm_processor_kwargs"
        )
    return Processor(config, preprocess, postprocess, preprocess_map_kwargs or {}, postprocess_map_kwargs or {})


@dataclasses.dataclass(frozen=True)
class Before:
    """Packs a row, which may hold values of any type, into one column of bytes: rows need not be alike."""

    function: RowFunction | None
    id_column: str | None  # a column that stays outside too, because Ray's checkpoints need it

    def __call__(self, row: Row) -> Row:
        if DATA in row:
            raise ValueError(f"column {DATA} is reserved: rename it")
        found = dict(row)
        if self.function is not None:
            found.update(_columns("preprocess", self.function, row))
        outside = {} if self.id_column is None or self.id_column not in row else {self.id_column: row[self.id_column]}
        return {DATA: pickle.dumps(found, pickle.HIGHEST_PROTOCOL), **outside}


@dataclasses.dataclass(frozen=True)
class After:
    """Unpacks a row, and applies the function to those that have an answer."""

    function: RowFunction | None
    errors: bool

    def __call__(self, row: Row) -> Row:
        found: Row = pickle.loads(row[DATA])
        if found.get(ERROR):
            return found
        if self.function is None:
            return found
        result = dict(_columns("postprocess", self.function, found))
        if self.errors:
            result[ERROR] = ""
        return result


def _columns(name: str, function: RowFunction, row: Row) -> Mapping[str, Any]:
    """What a function of the user makes of a row. Raises ValueError, which names function and row; it ends the job."""
    try:
        made = function(dict(row))
    except Exception as error:
        raise ValueError(f"{name} failed, row {label(row)}: {type(error).__name__}: {error}") from error
    if not isinstance(made, Mapping):
        raise ValueError(f"{name} returned {type(made).__name__}, row {label(row)}: return a dictionary of columns")
    return made


def _warn_where_actors_take_every_cpu(actors: int, num_cpus: float) -> None:
    """Say that a job will wait: stages that read rows need a CPU too, and Ray only waits for one."""
    import ray

    total = ray.cluster_resources().get("CPU", 0.0) if ray.is_initialized() else None
    if total is not None and actors * num_cpus > total - 1:
        _log.warning(
            "%d actors of num_cpus=%g leave no CPU of the cluster's %g to the stages that read and write rows: the job "
            "waits until a node joins; give fewer actors or a smaller num_cpus, or start Ray with more CPUs",
            actors,
            num_cpus,
            total,
        )
