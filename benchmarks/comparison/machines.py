"""Says what machine and what code results are of: the kind of processor names a results file."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import pocketvlm

ROOT = Path(__file__).resolve().parents[2]
CPUINFO = Path("/proc/cpuinfo")
# Families of AMD's processors, and the models of family 25 that are Zen 4 (the others are Zen 3).
_AMD = {"23": "zen2", "26": "zen5"}
_ZEN4 = (range(0x10, 0x20), range(0x60, 0x80), range(0xA0, 0xB0))


def processor(text: str) -> dict[str, str]:
    """The fields of the first processor in the text of /proc/cpuinfo."""
    first = text.strip().split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def this_processor() -> dict[str, str]:
    """The fields of this machine's first processor; empty where the system does not list them."""
    return processor(CPUINFO.read_text()) if CPUINFO.exists() else {}


def kind(fields: Mapping[str, str], architecture: str) -> str:
    """The kind by maker, family, model and instructions, because virtual machines hide the product's name."""
    maker, flags = fields.get("vendor_id"), set(fields.get("flags", "").split())
    if maker == "AuthenticAMD":
        family = fields.get("cpu family", "")
        if family == "25":
            return "zen4" if any(int(fields["model"]) in models for models in _ZEN4) else "zen3"
        return _AMD.get(family, f"amd-family{family}")
    if maker == "GenuineIntel":
        for flag, name in (("amx_int8", "xeon-amx"), ("avx512_vnni", "intel-avx512"), ("avx_vnni", "intel-avx-vnni")):
            if flag in flags:
                return name
        return "intel-avx2" if "avx2" in flags else "intel"
    return "arm64" if architecture in ("aarch64", "arm64") else architecture.lower()


def this_kind() -> str:
    """The kind of this machine's processor."""
    return kind(this_processor(), platform.machine())


def has_amx() -> bool:
    """Whether this processor has Intel's matrix tiles for 8-bit integers."""
    return "amx_int8" in this_processor().get("flags", "").split()


def code() -> str:
    """The last commit that changed the package, with "+" if it was changed since; "" outside of a clone."""
    git, paths = ["git", "-C", str(ROOT)], ["--", "src", "native"]
    try:
        commit = subprocess.run([*git, "log", "-1", "--format=%h", *paths], capture_output=True, check=True, text=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *paths], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + "+" * (changed.returncode != 0)


def machine() -> dict[str, str]:
    """The machine and the versions."""
    fields, architecture = this_processor(), platform.machine()
    name = fields.get("model name") or platform.processor() or architecture
    model = f", family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": f"{name}{model} ({kind(fields, architecture)}), {os.cpu_count()} logical",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pocketvlm": pocketvlm.__version__,
    }
