"""Recognises packages that are compiled for AXERA's NPUs, which hold programs instead of tensors."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from pocketvlm.errors import CheckpointError

_PROGRAM = ".axmodel"
# config.json of such a package names its programs under these keys.
_KEYS = ("template_filename_axmodel", "filename_post_axmodel")


def refuse_npu_package(directory: Path) -> None:
    """Raise CheckpointError, naming the checkpoint to use instead, for a package of .axmodel files."""
    programs = sorted(path.name for path in directory.iterdir() if path.suffix == _PROGRAM)
    found = programs[0] if programs else _named_program(directory / "config.json")
    if found is not None:
        raise CheckpointError(
            f"{directory}: {found} is a program for AXERA's NPU and runs on nothing else: use the GPTQ checkpoint that "
            f"such packages are made of, openbmb/MiniCPM-V-4.6-GPTQ"
        )


def _named_program(config: Path) -> str | None:
    """The program that config.json names, of a package of which only the small files are here."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        values = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return next((str(values[key]) for key in _KEYS if key in values), None)
    return None
