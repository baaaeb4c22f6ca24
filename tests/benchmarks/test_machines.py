"""The kind of a processor, which names a results file of the comparison."""

from __future__ import annotations

import pytest
from comparison.machines import kind, processor


def cpuinfo(maker: str, family: int, model: int, flags: str) -> str:
    """Two processors as Linux lists them; virtual machines give them names that say little."""
    lines = [f"vendor_id\t: {maker}", f"cpu family\t: {family}", f"model\t\t: {model}", "model name\t: A processor"]
    one = "\n".join([*lines, f"flags\t\t: fpu {flags}", "power management:"])
    return f"processor\t: 0\n{one}\n\nprocessor\t: 1\n{one}\n\n"


@pytest.mark.parametrize(
    ("maker", "family", "model", "flags", "expected"),
    [
        ("AuthenticAMD", 26, 2, "avx512_vnni", "zen5"),
        ("AuthenticAMD", 25, 0x11, "avx512_vnni", "zen4"),
        ("AuthenticAMD", 25, 0x61, "avx512_vnni", "zen4"),
        ("AuthenticAMD", 25, 0xA0, "avx512_vnni", "zen4"),
        ("AuthenticAMD", 25, 0x01, "avx2", "zen3"),
        ("AuthenticAMD", 27, 0, "avx512_vnni", "amd-family27"),
        ("GenuineIntel", 6, 143, "avx2 avx512_vnni amx_int8", "xeon-amx"),
        ("GenuineIntel", 6, 106, "avx2 avx512_vnni", "intel-avx512"),
        ("GenuineIntel", 6, 183, "avx2 avx_vnni", "intel-avx-vnni"),
        ("GenuineIntel", 6, 60, "avx2", "intel-avx2"),
    ],
)
def test_the_kind_by_family_model_and_flags(maker: str, family: int, model: int, flags: str, expected: str) -> None:
    assert kind(processor(cpuinfo(maker, family, model, flags)), "x86_64") == expected


def test_other_architectures_need_no_list_of_fields() -> None:
    assert kind(processor("processor\t: 0\nCPU implementer\t: 0x41\n"), "aarch64") == "arm64"
    assert kind({}, "arm64") == "arm64"
