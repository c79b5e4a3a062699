"""ICC profiles written byte by byte, by ICC.1:2022: matrix, grey and printing profiles."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import product

D50 = (0.9642, 1.0, 0.8249)

DISPLAY_P3 = {
    "rXYZ": (0.51512, 0.2412, -0.00105),
    "gXYZ": (0.29198, 0.69225, 0.04189),
    "bXYZ": (0.1571, 0.06657, 0.78407),
}
"""Colorants of Display P3, adapted to D50."""

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_number(value) for value in values)


def _curve(parameters: Sequence[float]) -> bytes:
    """A parametric curve: a power, or the five parameters of a power with a linear start."""
    kind = {1: 0, 5: 3}[len(parameters)]
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(_number(value) for value in parameters)


def profile(kind: bytes, space: bytes, connection: bytes, tags: Mapping[str, bytes]) -> bytes:
    """A profile of version 4 of class `kind` from `space` to `connection`."""
    described = {"wtpt": _xyz(D50), "desc": b"mluc" + bytes(4) + struct.pack(">II", 0, 12), **tags}
    table, body, start = b"", b"", 132 + 12 * len(described)
    for name, data in described.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = b"\0" * 8 + b"\x04\x30\0\0" + kind + space + connection + bytes(12) + b"acsp" + bytes(28)
    head += b"".join(_number(value) for value in D50) + bytes(48)
    whole = head + struct.pack(">I", len(described)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def matrix_profile(colorants: Mapping[str, Sequence[float]], curve: Sequence[float] = SRGB_CURVE) -> bytes:
    """A display profile of red, green and blue light."""
    curves = {name: _curve(curve) for name in ("rTRC", "gTRC", "bTRC")}
    return profile(b"mntr", b"RGB ", b"XYZ ", {**{k: _xyz(v) for k, v in colorants.items()}, **curves})


def grey_profile(gamma: float) -> bytes:
    return profile(b"mntr", b"GRAY", b"XYZ ", {"kTRC": _curve((gamma,))})


def press_profile(lab: Mapping[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """A printing profile: CIELAB of the inks (cyan, magenta, yellow, black) at 0 or 1; those not named are black."""
    cells = b"".join(
        bytes((round(light * 2.55), round(a + 128), round(b + 128)))
        for light, a, b in (lab.get((c, m, y, k), (0, 0, 0)) for c, m, y, k in product((0, 1), repeat=4))
    )
    straight = bytes(range(256))
    identity = b"".join(_number(float(row == column)) for row in range(3) for column in range(3))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + straight * 4 + cells + straight * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {"A2B0": table})


def endless_profile() -> bytes:
    """A display profile that applies one large element half a million times."""
    side, elements = 33, 400_000
    values = struct.pack(">f", 0.5) * (side**3 * 3)
    lookup = b"clut" + bytes(4) + struct.pack(">HH", 3, 3) + bytes([side] * 3) + bytes(13) + values
    position = struct.pack(">II", 16 + 8 * elements, len(lookup))
    table = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, elements) + position * elements + lookup
    return profile(b"mntr", b"RGB ", b"XYZ ", {"D2B0": table})
