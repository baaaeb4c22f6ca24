"""A recipe says which quantization scheme each tensor of a model gets for one `--scheme` and one `--format`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.model import expected_tensors
from pocketvlm.quantize.mixtures import MIXTURES, mixture_type
from pocketvlm.schemes import Role
from pocketvlm.suggest import nearest

_GROUPS = (16, 32, 64, 128)
_FLOATS: Mapping[str, int] = {"mxfp4": 32, "nvfp4": 16, "mxfp8": 32}
# MLX has no scale of whole matrices.
_MLX_NAMES = {"mxfp4": "mxfp4", "mxfp8": "mxfp8", "nvfp4": "nvfp4-mlx"}
_DENSE = ("bf16", "f16")
_MATRICES: tuple[Role, ...] = ("matrix", "gate", "embedding", "tied_embedding", "head")
_HEADS: tuple[Role, ...] = ("embedding", "tied_embedding", "head")
# Modules that vLLM joins into one matrix, which has one scheme.
FUSED_GROUPS: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
    ("linear_attn.in_proj_b", "linear_attn.in_proj_a"),
)
_NAME = re.compile(r"int(\d)-g(\d+)(-sym|-bias)?(-permuted)?")


@dataclass(frozen=True, slots=True)
class _Format:
    """What a format takes.

    schemes: as users name them. scheme: the one where none is named. fused: whether engines join matrices, so that the
    parts need one scheme. vision: the scheme of the vision tower's matrices unless another is named; None: they stay
    dense. visions: the others.
    """

    schemes: tuple[str, ...]
    scheme: str
    fused: bool = False
    vision: str | None = None
    visions: tuple[str, ...] = ()


def _affine(bits: Sequence[int], groups: Sequence[int], *suffixes: str) -> tuple[str, ...]:
    return tuple(f"int{b}-g{group}{suffix}" for suffix in suffixes for b in bits for group in groups)


_FORMATS: Mapping[str, _Format] = {
    "gguf": _Format((*MIXTURES, "mxfp4", "nvfp4"), "Q4_K_M", visions=("Q8_0",)),
    "awq": _Format(_affine((4,), (32, 64, 128), ""), "int4-g128", fused=True),
    "gptq": _Format(
        _affine((2, 3, 4, 8), (32, 64, 128), "", "-sym", "-permuted", "-sym-permuted"), "int4-g128", fused=True
    ),
    "mlx": _Format((*_affine((2, 3, 4, 5, 6, 8), (32, 64, 128), ""), *_FLOATS), "int4-g64"),
    "compressed-tensors": _Format(
        ("int8", *_affine((4, 8), (32, 64, 128), "", "-sym"), *_FLOATS), "int4-g128", fused=True
    ),
    "native": _Format(
        ("int8", *_affine((2, 3, 4, 5, 6, 8), _GROUPS, "", "-sym"), *MIXTURES, *_FLOATS),
        "int4-g64",
        vision="int8",
        visions=("int8", "Q8_0"),
    ),
}
FORMATS = (*_FORMATS, *_DENSE)


def schemes(format: str) -> tuple[str, ...]:
    """The names that `--scheme` takes with a format; none for the dense ones. Raises OptionError for another format."""
    return () if format in _DENSE else _format(format).schemes


def default_scheme(format: str) -> str:
    """The scheme of a format where none is named; a dense format has its own name. Raises OptionError."""
    return format if format in _DENSE else _format(format).scheme


def file_label(scheme: str, format: str) -> str:
    """How file names and metadata call a scheme: "Q4_K_M", "MXFP4" in GGUF files, "int4-g128". Raises OptionError."""
    name = scheme_name(scheme, format)
    return name.upper() if format == "gguf" else name


def vision_scheme(vision: str, format: str) -> str | None:
    """The scheme of the vision tower's matrices in a format; None: they stay as stored.

    vision: "default" (what the format usually has), "stored", or a scheme, whatever its case; int8 in GGUF is Q8_0.
    Raises OptionError that lists what the format takes.
    """
    if format in _DENSE:
        return None
    chosen = _format(format)
    spelled: dict[str, str | None] = {"default": chosen.vision, "stored": None}
    spelled |= {"int8": "Q8_0"} if format == "gguf" else {}
    spelled |= {name.lower(): name for name in chosen.visions}
    if vision.lower() not in spelled:
        takes = ", ".join(("default", "stored", *chosen.visions))
        raise OptionError(
            f"vision={vision!r}: the format {format} has no such scheme for the vision tower: it takes {takes}"
        )
    return spelled[vision.lower()]


def scheme_name(scheme: str, format: str) -> str:
    """A scheme as this module spells it, whatever its case; int8 in GGUF is Q8_0. Raises OptionError, listing all."""
    if format in _DENSE:
        return format
    known = schemes(format)
    spelled = {name.lower(): name for name in known}
    if format == "gguf":
        spelled |= {"int8": "Q8_0", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M"}
    if scheme.lower() in spelled:
        return spelled[scheme.lower()]
    near = nearest(scheme, known)
    hint = f"did you mean {near}? " if near else ""
    raise OptionError(f"scheme={scheme!r}: the format {format} has no such scheme: {hint}it takes {', '.join(known)}")


def recipe(
    scheme: str,
    format: str,
    config: ModelConfig,
    roles: Mapping[str, Role],
    *,
    keep: Sequence[str] = (),
    vision: str = "default",
    importance: bool = False,
) -> dict[str, str | None]:
    """The name of the tensor scheme of each tensor in `roles`, in their order; None: it stays dense.

    keep: patterns (fnmatch) of tensors that stay dense. vision: the scheme of the vision tower's matrices, as
    `vision_scheme` takes it. importance: whether an importance matrix is used. Raises
    OptionError for a scheme that the format or the width of a matrix does not allow, for a pattern that matches
    nothing, and for one that would split matrices that engines join.
    """
    if format in _DENSE:
        return dict.fromkeys(roles)
    if format == "gguf":
        _check_gguf(config)
    name, chosen, shapes = scheme_name(scheme, format), _format(format), expected_tensors(config)
    tower = vision_scheme(vision, format)
    if vision not in ("default", "stored") and "vision_matrix" not in roles.values():
        raise OptionError(f"vision={vision!r}: the model has no vision tower: leave it out")
    found: dict[str, str | None] = dict.fromkeys(roles)
    for tensor, role in roles.items():
        if role == "vision_matrix" and tower is not None:
            found[tensor] = tower if tower == "int8" or shapes[tensor][1] % 32 == 0 else None
        elif role in _MATRICES:
            found[tensor] = _text_scheme(name, format, tensor, role, shapes[tensor], config, importance)
    _leave_out(found, keep, chosen.fused)
    for tensor, given in found.items():
        if given is not None:
            _check_width(tensor, given, shapes[tensor][1], chosen.schemes)
    return found


def _format(format: str) -> _Format:
    if format not in _FORMATS:
        raise OptionError(f"format={format!r}: no such format, these are known: {', '.join(FORMATS)}")
    return _FORMATS[format]


def _check_gguf(config: ModelConfig) -> None:
    if config.family.positions is not None:
        raise OptionError(
            f"format='gguf': GGUF files cannot say that positions have three dimensions, as {config.family.name} has "
            f"them: use another format, such as native"
        )


def _text_scheme(
    scheme: str, format: str, name: str, role: Role, shape: tuple[int, ...], config: ModelConfig, importance: bool
) -> str | None:
    """The scheme of a matrix of the language model."""
    if scheme in MIXTURES:
        return mixture_type(scheme, name, role, shape, config.text, importance)
    if format == "gguf":  # llama.cpp's own files in these types have the head and all small matrices in Q8_0
        block = 64 if scheme == "nvfp4" else 32
        kind = scheme if role == "matrix" and shape[1] % block == 0 else "Q8_0"
        return None if shape[1] % 32 else kind
    if format == "native":
        return "int8" if role == "gate" else scheme
    if format == "mlx":
        # mlx-vlm quantizes nothing under linear_attn, and its affine codes have a bias.
        allowed = role in _HEADS or (role == "matrix" and ".linear_attn." not in name)
        return _MLX_NAMES.get(scheme, f"{scheme}-bias") if allowed else None
    return scheme if role == "matrix" else None


def _leave_out(found: dict[str, str | None], keep: Sequence[str], fused: bool) -> None:
    """Make the tensors that a pattern matches dense."""
    for pattern in keep:
        matching = [name for name in found if fnmatchcase(name, pattern)]
        if not matching:
            raise OptionError(f"keep={pattern!r}: matches no tensor: patterns are like '*.mlp.down_proj.weight'")
        found.update(dict.fromkeys(matching))
    for name in found if fused else ():
        for group in FUSED_GROUPS:
            end = next((module for module in group if name.endswith(f".{module}.weight")), None)
            others = [] if end is None else [name.replace(end, module) for module in group]
            if len({found[other] for other in others}) > 1:
                dense = [other for other in others if found[other] is None]
                raise OptionError(
                    f"keep: leaves {dense[0]} in 16 bits, but engines join {', '.join(group)}, which need one scheme: "
                    f"keep all of them"
                )


def _check_width(name: str, scheme: str, width: int, known: Sequence[str]) -> None:
    """Raise OptionError for rows that groups do not divide."""
    affine = _NAME.fullmatch(scheme)
    group = int(affine[2]) if affine else _FLOATS.get(scheme, 1)
    if width % group:
        fitting = [other for other in known if affine and _fits(other, affine[1], width)]
        way_out = f"use groups that divide it ({', '.join(fitting)})" if fitting else "use another scheme"
        raise OptionError(
            f"scheme={scheme!r}: {name} has {width} inputs, no multiple of {group}: {way_out}, or keep={name!r}"
        )


def _fits(scheme: str, bits: str, width: int) -> bool:
    """Whether a scheme has so many bits, and groups that divide the width."""
    found = _NAME.fullmatch(scheme)
    return found is not None and found[1] == bits and width % int(found[2]) == 0
