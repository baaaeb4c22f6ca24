"""The values of one block of each GGUF type, computed number by number: slow, and plain enough to compare by eye."""

from __future__ import annotations

import struct

E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def block_values(kind: str, b: bytes) -> list[float]:
    """All values of a block in float64, so within the rounding of float32 of what a reader gives."""
    return globals()["_" + kind.lower()](b)


def _half(b: bytes, at: int) -> float:
    return struct.unpack_from("<e", b, at)[0]


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _low_then_high(b: bytes) -> list[int]:
    return [byte & 15 for byte in b] + [byte >> 4 for byte in b]


def _q8_0(b: bytes) -> list[float]:
    return [_half(b, 0) * _signed(byte) for byte in b[2:]]


def _q4_0(b: bytes) -> list[float]:
    return [_half(b, 0) * (code - 8) for code in _low_then_high(b[2:])]


def _q4_1(b: bytes) -> list[float]:
    return [_half(b, 0) * code + _half(b, 2) for code in _low_then_high(b[4:])]


def _fifth(b: bytes, at: int) -> list[int]:
    high = struct.unpack_from("<I", b, at)[0]
    return [code | (high >> i & 1) << 4 for i, code in enumerate(_low_then_high(b[at + 4 :]))]


def _q5_0(b: bytes) -> list[float]:
    return [_half(b, 0) * (code - 16) for code in _fifth(b, 2)]


def _q5_1(b: bytes) -> list[float]:
    return [_half(b, 0) * code + _half(b, 2) for code in _fifth(b, 4)]


def _q2_k(b: bytes) -> list[float]:
    d, minimum = _half(b, 80), _half(b, 82)
    values = []
    for i in range(256):
        half, quarter, column = i // 128, i % 128 // 32, i % 32
        code = b[16 + 32 * half + column] >> 2 * quarter & 3
        scale = b[i // 16]
        values.append(d * (scale & 15) * code - minimum * (scale >> 4))
    return values


def _q3_k(b: bytes) -> list[float]:
    d = _half(b, 108)
    values = []
    for i in range(256):
        half, quarter, column, group = i // 128, i % 128 // 32, i % 32, i // 16
        code = b[32 + 32 * half + column] >> 2 * quarter & 3
        code -= 0 if b[column] >> i // 32 & 1 else 4
        low = b[96 + group % 8] >> 4 * (group // 8) & 15
        high = b[104 + group % 4] >> 2 * (group // 4) & 3
        values.append(d * ((low | high << 4) - 32) * code)
    return values


def _scale_and_minimum(b: bytes, j: int) -> tuple[int, int]:
    s = b[4:16]
    if j < 4:
        return s[j] & 63, s[j + 4] & 63
    return s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4


def _q4_k(b: bytes) -> list[float]:
    return _with_minimum(b, lambda i: b[16 + i // 64 * 32 + i % 32] >> 4 * (i // 32 % 2) & 15)


def _q5_k(b: bytes) -> list[float]:
    return _with_minimum(
        b, lambda i: b[48 + i // 64 * 32 + i % 32] >> 4 * (i // 32 % 2) & 15 | (b[16 + i % 32] >> i // 32 & 1) << 4
    )


def _with_minimum(b: bytes, code) -> list[float]:  # type: ignore[no-untyped-def]
    values = []
    for i in range(256):
        scale, minimum = _scale_and_minimum(b, i // 32)
        values.append(_half(b, 0) * scale * code(i) - _half(b, 2) * minimum)
    return values


def _q6_k(b: bytes) -> list[float]:
    values = []
    for i in range(256):
        half, quarter, column = i // 128, i % 128 // 32, i % 32
        low = b[64 * half + 32 * (quarter & 1) + column] >> 4 * (quarter >> 1) & 15
        high = b[128 + 32 * half + column] >> 2 * quarter & 3
        values.append(_half(b, 208) * _signed(b[192 + i // 16]) * ((low | high << 4) - 32))
    return values


def _iq4_nl(b: bytes) -> list[float]:
    return [_half(b, 0) * IQ4[code] for code in _low_then_high(b[2:])]


def _iq4_xs(b: bytes) -> list[float]:
    high, values = struct.unpack_from("<H", b, 2)[0], []
    for j in range(8):
        scale = (b[4 + j // 2] >> 4 * (j % 2) & 15 | (high >> 2 * j & 3) << 4) - 32
        values += [_half(b, 0) * scale * IQ4[code] for code in _low_then_high(b[8 + 16 * j : 24 + 16 * j])]
    return values


def _mxfp4(b: bytes) -> list[float]:
    return [2.0 ** (b[0] - 128) * E2M1[code] for code in _low_then_high(b[1:])]


def _nvfp4(b: bytes) -> list[float]:
    values = []
    for j in range(4):
        exponent, mantissa = b[j] >> 3 & 15, b[j] & 7
        scale = mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        scale = 0.0 if b[j] == 127 else scale / 2
        values += [scale * E2M1[code] for code in _low_then_high(b[4 + 8 * j : 12 + 8 * j])]
    return values
