"""`compare_models()` measures how far a checkpoint is from another one: a quantized one from its 16-bit original."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pocketvlm import backends
from pocketvlm.api import processor_for
from pocketvlm.api.about import parameter_count, scheme_for
from pocketvlm.api.comparison import Comparison, FeatureError, KindDivergence, LayerError, ModelSize
from pocketvlm.api.merging import with_adapter
from pocketvlm.api.parts import quantization_of
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.safetensors import leave
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import OptionError
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.model.parts import NetworkParts
from pocketvlm.options.load import Precision
from pocketvlm.processor.processor import Processor
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.quantize import quantized
from pocketvlm.quantize.calibration import KINDS, Sample, held_out, read_calibration
from pocketvlm.quantize.calibration.sample import thinned
from pocketvlm.quantize.chunks import threads_available
from pocketvlm.quantize.divergence import Divergence
from pocketvlm.quantize.paired import Pair, run_pair
from pocketvlm.schemes import Role

Progress = Callable[[str, int, int], None]

DEFAULT_MAX_TOKENS = 8192
_MIN_LENGTH = 256  # of prompts: a view in 4x with words around it
_MAX_LENGTH = 8192  # of prompts with images of a user: ten views in 4x, and more
_LANGUAGE: tuple[Role, ...] = ("matrix", "gate", "head", "tied_embedding")
_VISION: tuple[Role, ...] = ("vision_matrix", "patch_embedding")


def compare_models(
    reference: str | Path,
    candidate: str | Path,
    *,
    data: str | Path = "default",
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    precision: Precision = "exact",
    threads: int | None = None,
    revision: str | None = None,
    mmproj: str | Path | None = None,
    reference_revision: str | None = None,
    reference_mmproj: str | Path | None = None,
    reference_adapter: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure how far a candidate's outputs are from those of a reference: any two checkpoints of one vocabulary.

    reference, candidate: as in `load`. data: "default" (held-out texts, images in 16x and 4x, and a clip), a JSONL
    file of messages, or a folder of images. max_tokens: of all prompts together, samples are thinned evenly to fit
    (None: all). precision: "exact" compares the weights alone; "fast" includes the rounding of integer products; dense
    tensors stay as stored with both. threads: None means physical cores. revision, mmproj: as in `load`, of the
    candidate; reference_revision, reference_mmproj: of the reference. reference_adapter: an adapter (LoRA)
    that is merged into the reference's weights. progress(what, done, total) is called with
    "download" and bytes, then with "vision", "layers" and "logits".

    Both networks run a part at a time, so that memory holds one layer's weights, or one head's. Raises CheckpointError,
    InputError, and OptionError, also for models whose vocabularies differ.
    """
    if max_tokens is not None and max_tokens < 1:
        raise OptionError(
            f"max_tokens={max_tokens} is out of range: give at least 1, or None (0 on the command line) for all"
        )
    backends.check("native", threads, precision=precision)
    began = time.perf_counter()
    download = progress and partial(progress, "download")
    paths = [
        resolve(reference, reference_revision, download, mmproj=reference_mmproj),
        resolve(candidate, revision, download, mmproj=mmproj),
    ]
    checkpoints = [open_checkpoint(paths[0], mmproj=reference_mmproj), open_checkpoint(paths[1], mmproj=mmproj)]
    if reference_adapter is not None:
        checkpoints[0] = with_adapter(checkpoints[0], reference_adapter, allow_other_base=True).checkpoint
    processors = [processor_for(checkpoint) for checkpoint in checkpoints]
    names = [str(reference), str(candidate)]
    check_alike(names, checkpoints, [processor.tokenizer for processor in processors])
    samples, notes = _samples(names, checkpoints, processors[0], data, max_tokens)
    machine = backends.create("native", threads)
    first, second = (_network(checkpoint, machine, precision) for checkpoint in checkpoints)
    files = [file for checkpoint in checkpoints for file in checkpoint.tensor_files]
    prompts = [sample.prompt for sample in samples]
    pair = run_pair(first, second, prompts, threads or threads_available(), progress, release=lambda: leave(files))
    layers = checkpoints[0].model.text.layer_types
    if not pair.layers:
        notes.append("the networks differ in depth or width: no error by layer")
    return Comparison(
        reference=size_of(names[0], checkpoints[0]),
        candidate=size_of(names[1], checkpoints[1]),
        data=str(data),
        precision=precision,
        kinds=tuple(_rows(samples, pair)),
        total=_row("all", samples, pair, range(len(samples))),
        features=tuple(FeatureError(mode, e.rows, e.relative, e.cosine) for mode, e in sorted(pair.features.items())),
        layers=tuple(LayerError(index, layers[index], error.relative) for index, error in enumerate(pair.layers)),
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
    )


def size_of(name: str, checkpoint: Checkpoint) -> ModelSize:
    """The size of a checkpoint, from its headers alone."""
    roles, shapes = tensor_roles(checkpoint.model), expected_tensors(checkpoint.model)
    modules = {tensor.removesuffix(".weight"): role for tensor, role in roles.items()}
    stored: dict[Role, int] = dict.fromkeys(roles.values(), 0)
    for entry_name, entry in checkpoint.entries.items():
        module = entry_name
        while module and module not in modules:
            module = module.rpartition(".")[0]
        if module:
            stored[modules[module]] += entry.nbytes

    def bits(chosen: tuple[Role, ...]) -> float | None:
        weights = sum(int(np.prod(shape)) for tensor, shape in shapes.items() if roles[tensor] in chosen)
        return 8 * sum(stored.get(role, 0) for role in chosen) / weights if weights else None

    parameters, language = parameter_count(checkpoint), bits(_LANGUAGE)
    assert language is not None
    return ModelSize(
        name=name,
        path=str(checkpoint.path),
        quantization=quantization_of(checkpoint),
        bytes=checkpoint.nbytes,
        parameters=parameters,
        bits_per_weight=8 * checkpoint.nbytes / parameters,
        language_bits_per_weight=language,
        vision_bits_per_weight=bits(_VISION),
    )


def check_alike(names: Sequence[str], checkpoints: Sequence[Checkpoint], tokenizers: Sequence[Tokenizer]) -> None:
    """Raise OptionError if two checkpoints cannot read the same prompts."""
    a, b = (checkpoint.model for checkpoint in checkpoints)
    sizes = [config.text.vocab_size for config in (a, b)]
    advice = "only models of one vocabulary can be compared"
    if sizes[0] != sizes[1]:
        raise OptionError(
            f"the vocabularies differ: {names[0]} has {sizes[0]} ids, {names[1]} has {sizes[1]}: {advice}"
        )
    for token in range(sizes[0]):
        first, second = (tokenizer.token_bytes(token) for tokenizer in tokenizers)
        # Files pad their vocabularies in different ways, so an id without a token agrees with any.
        if first != second and first and second:
            raise OptionError(
                f"the vocabularies differ: id {token} is {_shown(first)} in {names[0]} and {_shown(second)} in "
                f"{names[1]}: {advice}"
            )
    if a.image_token_id != b.image_token_id:
        raise OptionError(
            f"the image tokens differ: {names[0]} has id {a.image_token_id}, {names[1]} has id {b.image_token_id}: "
            f"{advice}"
        )
    if (a.text.mrope_section is None) != (b.text.mrope_section is None):
        raise OptionError(
            f"the rotary positions differ: {names[0]} is of the family {a.family.name}, {names[1]} of {b.family.name}: "
            f"compare models of one family"
        )


def _shown(token: bytes) -> str:
    return repr(token.decode("utf-8", "replace"))


def _network(checkpoint: Checkpoint, machine: AnyBackend, precision: Precision) -> NetworkParts:
    scheme = scheme_for(checkpoint, "native", "stored", precision)
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
    backend = machine.with_scheme(scheme)
    return NetworkParts(checkpoint.model, backend, quantized(tensors, tensor_roles(checkpoint.model), scheme))


def _samples(
    names: Sequence[str],
    checkpoints: Sequence[Checkpoint],
    processor: Processor,
    data: str | Path,
    max_tokens: int | None,
) -> tuple[list[Sample], list[str]]:
    """The samples that both models can read, and notes on what was left out."""
    notes: list[str] = []
    tokens = max_tokens or sys.maxsize
    # A few long texts must not take the place of all other samples.
    length = max(_MIN_LENGTH, tokens // 4)
    if data == "default":
        samples = held_out(processor, tokens=sys.maxsize, max_length=length)
    else:
        context = min(checkpoint.model.text.max_position_embeddings for checkpoint in checkpoints)
        samples = read_calibration(
            data,
            processor,
            max_length=min(length, context),
            longest=min(context, max(tokens, _MAX_LENGTH)),
            max_tokens=tokens,
            label="data",
            notes=notes,
        )
    visions = [checkpoint.model.vision for checkpoint in checkpoints]
    blind = [name for name, vision in zip(names, visions, strict=True) if vision is None]
    reason = f"{' and '.join(blind)} has no vision tower" if blind else ""
    first, second = visions
    if first is not None and second is not None and first.patch_dim != second.patch_dim:
        reason = f"the patches of {names[0]} and {names[1]} differ"
    modes = set(checkpoints[0].model.downsample_modes) & set(checkpoints[1].model.downsample_modes)
    readable = [
        sample
        for sample in samples
        if not sample.prompt.views or (not reason and all(v.downsample_mode in modes for v in sample.prompt.views))
    ]
    if len(readable) < len(samples):
        reason = reason or f"not both models have a vision tower for {' and '.join(sorted({'16x', '4x'} - modes))}"
        notes.append(f"{len(samples) - len(readable)} of {len(samples)} samples were left out: {reason}")
    if not readable:
        raise OptionError(f"no sample is left to compare: {notes[-1]}")
    return thinned(readable, tokens), notes


def _rows(samples: Sequence[Sample], pair: Pair) -> list[KindDivergence]:
    found = []
    for kind in KINDS:
        chosen = [index for index, sample in enumerate(samples) if sample.kind == kind]
        if chosen:
            found.append(_row(kind, samples, pair, chosen))
    return found


def _row(kind: str, samples: Sequence[Sample], pair: Pair, chosen: Sequence[int]) -> KindDivergence:
    values = np.concatenate([pair.divergences[index] for index in chosen])
    agrees = np.concatenate([pair.agrees[index] for index in chosen])
    tokens = sum(len(samples[index].prompt.ids) for index in chosen)
    return KindDivergence(kind, len(chosen), tokens, Divergence.of(values, agrees))
