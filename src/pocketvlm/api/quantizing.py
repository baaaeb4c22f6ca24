"""`quantize_model` quantizes a dense checkpoint and writes it in the format of an engine."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import cast

import numpy as np

from pocketvlm import backends
from pocketvlm.api import processor_for
from pocketvlm.api.merging import check_order, with_adapter
from pocketvlm.backends.options import choose
from pocketvlm.checkpoint.adapters.merge import MergeChanges
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.safetensors import leave
from pocketvlm.checkpoint.hub import resolve, resolve_adapter
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.output import check_free, check_space, check_tensors, write_checkpoint
from pocketvlm.checkpoint.writers.registry import find_writer
from pocketvlm.checkpoint.writers.writer import GGUF_SUFFIX, Writer
from pocketvlm.config import ModelConfig
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize.calibration import Sample, default_set, read_calibration
from pocketvlm.quantize.calibration.reader import MAX_TOKENS
from pocketvlm.quantize.candidates import COUNTED, DENSE_BITS, bits_of, mean_bits, mixes, units_of
from pocketvlm.quantize.job import Job
from pocketvlm.quantize.layer import METHODS, Method
from pocketvlm.quantize.pipeline import ALGORITHM_VERSION, Outcome, Pipeline
from pocketvlm.quantize.recipes import default_scheme, file_label, recipe, schemes, vision_scheme
from pocketvlm.quantize.result import QuantizeResult, TensorResult
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.quantize.work import SUFFIX, WorkFolder, remove_leftover
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.suggest import nearest
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

# Stage, work done, all work, and seconds left (None where nobody can say yet). Stages: "download" (bytes), "vision",
# "pictures", "measure", "probe", "head", "layers", and "write" (bytes).
QuantizeProgress = Callable[[str, int, int, float | None], None]
_DEFAULT_LENGTH = 2048


def quantize_model(
    model: str | Path,
    out: str | Path,
    *,
    format: str = "native",
    scheme: str | None = None,
    method: str = "auto",
    calibration: str | Path = "default",
    keep: Sequence[str] = (),
    vision: str = "default",
    bits_per_weight: float | None = None,
    seed: int = 0,
    merge_adapter: str | Path | None = None,
    allow_other_base: bool = False,
    threads: int | None = None,
    revision: str | None = None,
    mmproj: str | Path | None = None,
    progress: QuantizeProgress | None = None,
) -> QuantizeResult:
    """Quantize a dense checkpoint, layer by layer on the native engine, and write it to `out`.

    model: as `load` takes it. out: the directory to make, or with format "gguf" a file that ends in .gguf. format:
    "native", "gguf", "awq", "gptq", "mlx" or "compressed-tensors". scheme: such as "int4-g64" or "Q4_K_M"; each format
    has its own (None: the format's default, see docs/quantize.md). method: "rtn" (round to nearest, the scale with the
    smallest squared error), "gptq", "awq", or "auto" (GPTQ, with AWQ's scales where these help, and a scheme for each
    matrix). calibration: "default" (texts, chats, tool calls and drawn images), a JSONL file of conversations, or a
    folder of images; "rtn" needs none. keep: patterns (fnmatch) of tensors that stay as they are. vision: the
    scheme of the vision tower's matrices: "default" (native: "int8", other formats: as stored), "stored", "Q8_0" (GGUF
    and native) or "int8" (native). bits_per_weight: what "auto" may spend on the language model's matrices and head on
    average, scales included (None: as much as the scheme does). With native, MLX and GGUF files, "auto" gives each
    matrix a scheme of the same family as `scheme`; the other formats have one scheme, and a budget says which matrices
    may have 16 bits instead. seed: of the default calibration set. merge_adapter: an
    adapter (LoRA) that is merged into the dense weights first, so that its network is calibrated; a folder or a hub id,
    "org/name@revision" for another revision. allow_other_base: also merge one that was trained on another base.
    threads: CPU threads (None: physical cores). revision: as `load` takes it. mmproj: the vision file of a GGUF model
    of 16 bits.
    progress(stage, done, total, seconds left) is called often.

    The work is saved in a folder `out`.partial as it goes: the same call resumes there after the process was killed.
    Raises OptionError, InputError and CheckpointError before the work starts, TensorError for weights that are infinite
    or NaN, and CheckpointError for a disk that became full.
    """
    began = time.perf_counter()
    writer, target = find_writer(format), Path(out).expanduser()
    scheme = default_scheme(format) if scheme is None else scheme
    vision_scheme(vision, format)
    _check_options(format, scheme, method, calibration, bits_per_weight)
    if target.suffix == GGUF_SUFFIX and format != "gguf":
        raise OptionError(f"{target}: format {format} is a directory: give a name that does not end in {GGUF_SUFFIX}")
    partial_folder = target.with_name(target.name + SUFFIX)
    _check_target(target, partial_folder)
    backends.check("native", threads)
    download = None if progress is None else (lambda done, total: progress("download", done, total, None))
    folder = None
    if merge_adapter is not None:  # before the model, whose download may take an hour
        check_order(model, merge_adapter)
        folder = resolve_adapter(merge_adapter, progress=download)
    checkpoint = open_checkpoint(resolve(model, revision, download, mmproj=mmproj), mmproj=mmproj)
    base, merged = checkpoint.fingerprint, None
    if folder is not None:
        _dense(str(model), checkpoint)  # a quantized base is refused before the adapter is read
        merged = with_adapter(checkpoint, folder, allow_other_base=allow_other_base)
        checkpoint, base = merged.checkpoint, f"{base} {merged.digest}"
    config, roles = checkpoint.model, tensor_roles(checkpoint.model)
    dense = _dense(str(model), checkpoint)
    wanted = recipe(scheme, format, config, roles, keep=keep, vision=vision, importance=method != "rtn")
    unchanged = frozenset(name for name in dense if any(fnmatch.fnmatchcase(name, pattern) for pattern in keep))
    planned = _planned(writer, config, dense, roles, wanted)
    writer.check_files(checkpoint, planned, roles, target, file_label(scheme, format))
    budget, units = bits_per_weight, {}
    if budget is None and method == "auto" and mixes(format, wanted, roles):
        budget = mean_bits(wanted, config)
    if budget is not None:
        units = units_of(config, format, wanted, roles, partial(_fits, writer, config, dense, roles))
        _check_budget(budget, format, checkpoint, wanted, units)
    samples = [] if method == "rtn" else _samples(calibration, checkpoint, seed)
    tokens = sum(len(sample.prompt.ids) for sample in samples)
    largest = {name: _largest(wanted, units).get(name) for name in dense}
    work_bytes = sum(bits_of(each, dense[name].shape) / 8 for name, each in largest.items() if each is not None)
    check_space(target, writer.nbytes(planned, roles) + int(work_bytes) + 20 * tokens * config.text.hidden_size)
    settings = {
        "model": base,
        "format": format,
        "schemes": wanted,
        "method": method,
        "bits_per_weight": bits_per_weight,
        "calibration": _digest(samples),
        "keep": sorted(unchanged),
        "algorithm": ALGORITHM_VERSION,
    }
    job = Job(
        config,
        dense,
        roles,
        wanted,
        units,
        budget,
        cast(Method, method),
        samples,
        backends.create("native", threads, scheme=choose("native", "stored", "exact")),
        backends.create("native", threads, scheme=choose("native", "stored")),
        partial(leave, checkpoint.tensor_files),
        unchanged,
    )
    with WorkFolder(partial_folder, settings) as work:
        outcome = Pipeline(job, work, progress).run()
        work.mark_writing()
        write = None if progress is None else (lambda done, total: progress("write", done, total, None))
        label = _label(scheme, format, job, outcome, bits_per_weight)
        paths = write_checkpoint(writer, checkpoint, outcome.tensors, roles, target, label, write)
        result = _result(paths, format, scheme, method, job, outcome, began, None if merged is None else merged.changes)
        work.remove()
    return result


def _check_options(
    format: str, scheme: str, method: str, calibration: str | Path, bits_per_weight: float | None
) -> None:
    """Raise OptionError for values that are wrong whatever the model is."""
    if method not in METHODS:
        near = nearest(method, METHODS)
        hint = f"did you mean {near}? " if near else ""
        raise OptionError(f"method={method!r}: no such method: {hint}there are {', '.join(METHODS)}")
    if not schemes(format):
        raise OptionError(f"format={format!r} quantizes nothing: use `pocketvlm convert`, or give another format")
    file_label(scheme, format)
    if method == "rtn" and calibration != "default":
        raise OptionError(
            f"calibration={str(calibration)!r}: method rtn rounds to nearest and reads no data: leave it out, or give "
            f"another method"
        )
    if bits_per_weight is None:
        return
    if method != "auto":
        raise OptionError(
            f"bits_per_weight={bits_per_weight!r}: only method auto chooses schemes within a budget: give "
            f"method='auto', or leave it out"
        )
    if isinstance(bits_per_weight, bool) or not 0 < float(bits_per_weight) <= DENSE_BITS:
        raise OptionError(f"bits_per_weight={bits_per_weight!r} is out of range: give a number up to {DENSE_BITS:g}")


def _check_target(target: Path, partial_folder: Path) -> None:
    """Raise OptionError unless `target` can be made."""
    finished = target.is_file() or (target / "config.json").is_file()
    if finished and remove_leftover(partial_folder):
        raise OptionError(
            f"{target}: is finished: the run that made it was killed before it removed {partial_folder.name}, which is "
            f"removed now: use {target.name}, or remove it to quantize again"
        )
    check_free(target)


def _label(scheme: str, format: str, job: Job, outcome: Outcome, bits_per_weight: float | None) -> str:
    """What file names call the quantization: a mixture that "auto" chose has the name of no scheme."""
    if bits_per_weight is None and outcome.schemes == dict(job.schemes):
        return file_label(scheme, format)
    bits = mean_bits(outcome.schemes, job.config) if bits_per_weight is None else bits_per_weight
    return f"{round(bits, 2):g}bpw"


def _dense(model: str, checkpoint: Checkpoint) -> dict[str, DenseTensor]:
    """The tensors of a checkpoint; refuses quantized ones."""
    found: dict[str, DenseTensor] = {}
    for name, tensor in checkpoint.tensors(expected_tensors(checkpoint.model)).items():
        if isinstance(tensor, QuantizedTensor):
            raise CheckpointError(
                f"{model}: is quantized already ({checkpoint.quantization}; {name} has {tensor.bits} bits): quantizing "
                f"it again would cost accuracy: give the 16-bit checkpoint, or use `pocketvlm convert`"
            )
        found[name] = tensor
    return found


def _planned(
    writer: Writer,
    config: ModelConfig,
    dense: Mapping[str, DenseTensor],
    roles: Mapping[str, Role],
    wanted: Mapping[str, str | None],
) -> dict[str, Tensor]:
    """Tensors as they will be, without values. Raises OptionError that lists those that cannot be so."""
    unfit: dict[str, str] = {}
    planned: dict[str, Tensor] = dict(dense)
    for name, given in wanted.items():
        if given is None:
            continue
        scheme, shape = tensor_scheme(given), (dense[name].shape[0], dense[name].shape[1])
        if (reason := scheme.problem(shape)) is None:
            planned[name] = scheme.placeholder(name, shape)
        else:
            unfit[name] = f"{reason}: give another scheme, or keep the tensor as it is"
    check_tensors(writer, config, planned, roles, values=False, unfit=unfit)
    return planned


def _fits(
    writer: Writer,
    config: ModelConfig,
    dense: Mapping[str, DenseTensor],
    roles: Mapping[str, Role],
    name: str,
    scheme: str,
) -> bool:
    shape = (dense[name].shape[0], dense[name].shape[1])
    return writer.problem(name, roles[name], tensor_scheme(scheme).placeholder(name, shape), config) is None


def _largest(
    wanted: Mapping[str, str | None], units: Mapping[tuple[str, ...], tuple[str | None, ...]]
) -> dict[str, str | None]:
    """The scheme of most bits that each tensor may have."""
    found = dict(wanted)
    for names, candidates in units.items():
        given = [each for each in candidates if each is not None]
        found.update(dict.fromkeys(names, max(given, key=lambda each: bits_of(each, (1, 4096)))))
    return found


def _check_budget(
    budget: float,
    format: str,
    checkpoint: Checkpoint,
    wanted: Mapping[str, str | None],
    units: Mapping[tuple[str, ...], tuple[str | None, ...]],
) -> None:
    shapes = expected_tensors(checkpoint.model)
    smallest = dict(wanted)
    for names, candidates in units.items():
        smallest.update({name: min(candidates, key=partial(_bits, shapes[name])) for name in names})
    lowest = mean_bits(smallest, checkpoint.model)
    if budget < lowest:
        dense, way_out = "", ""
        if any(smallest[name] is None for name, role in tensor_roles(checkpoint.model).items() if role in COUNTED):
            dense = ", of which some stay in 16 bits"
            way_out = ", or keep fewer tensors as they are" if format == "native" else ", or take format native"
        raise OptionError(
            f"bits_per_weight={budget!r} is not possible: format {format} needs at least "
            f"{ceil(100 * lowest) / 100:.2f} bits a weight for the language model's matrices and head{dense}: give so "
            f"many{way_out}"
        )


def _bits(shape: tuple[int, ...], scheme: str | None) -> float:
    return bits_of(scheme, shape)


def _samples(calibration: str | Path, checkpoint: Checkpoint, seed: int) -> list[Sample]:
    processor, limit = processor_for(checkpoint), checkpoint.model.text.max_position_embeddings
    if calibration == "default":
        return default_set(processor, max_length=min(limit, _DEFAULT_LENGTH), seed=seed)
    return read_calibration(calibration, processor, max_length=min(limit, MAX_TOKENS))


def _digest(samples: Sequence[Sample]) -> str:
    found = hashlib.sha256()
    for sample in samples:
        found.update(np.ascontiguousarray(sample.prompt.ids, np.int32).tobytes())
        found.update(json.dumps([(view.digest, view.start) for view in sample.prompt.views]).encode())
    return found.hexdigest()


def _result(
    paths: tuple[Path, ...],
    format: str,
    scheme: str,
    method: str,
    job: Job,
    outcome: Outcome,
    began: float,
    adapter: MergeChanges | None,
) -> QuantizeResult:
    tensors = []
    for name, role in job.roles.items():
        if role in ARRAY_ROLES:
            continue
        how, error = outcome.made.get(name, (None, None))
        given, shape = outcome.schemes[name], job.dense[name].shape
        each = bits_of(given, (shape[0], prod(shape[1:]))) / prod(shape)
        tensors.append(TensorResult(name, role, shape, given, how, error, each))
    tokens: dict[str, int] = {}
    for sample in job.samples:
        tokens[sample.kind] = tokens.get(sample.kind, 0) + len(sample.prompt.ids)
    return QuantizeResult(
        paths,
        format,
        scheme,
        method,
        tuple(tensors),
        mean_bits(outcome.schemes, job.config),
        outcome.vision_error,
        tokens,
        time.perf_counter() - began,
        _peak_memory(),
        adapter,
    )


def _peak_memory() -> int:
    """Bytes that this process had resident at most; macOS counts in bytes, Linux in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
