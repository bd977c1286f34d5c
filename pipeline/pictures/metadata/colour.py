"""What the colours of a PNG mean, said as an ICC profile, which the other formats hold.

A profile is a curve for each channel and the matrix of the primaries, as precise as ICC's numbers
of 16.16 bits. Sources: W3C PNG Specification, third edition (cICP before iCCP before sRGB before
gAMA and cHRM); ITU-T H.273; ICC.1:2010; Bradford adaptation as in its annex E.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_D50 = (0.96420288, 1.0, 0.82490540)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65 = (0.3127, 0.3290)
_BT709 = (_D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_PRIMARIES = {
    1: _BT709,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: ((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""White, red, green and blue by their number in H.273, as (x, y)."""

_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT1361 = (1 / 0.45, 1 / 1.09929682680944, 0.09929682680944 / 1.09929682680944, 1 / 4.5, 0.08124285)
_SMPTE240 = (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 0.0912)
_CURVES: dict[int, tuple[float, ...]] = {
    1: _BT1361, 6: _BT1361, 14: _BT1361, 15: _BT1361, 7: _SMPTE240,
    4: (2.2,), 5: (2.8,), 8: (1.0,), 13: _SRGB,
}  # fmt: skip
"""Curves by their number in H.273: an exponent, or ICC's parameters g, a, b, c, d."""
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True, slots=True)
class Said:
    """A profile that says the same as a PNG's chunks, if any; and what is to be noted of it."""

    icc: bytes | None
    notes: tuple[str, ...] = ()


def said_by(chunks: Mapping[str, bytes], icc: bytes | None, *, grey: bool) -> Said:
    """Return the profile that says what the chunks of a PNG say, by the order of precedence.

    `icc` is the file's own profile; a file without any of them has none.

    Raises:
        PictureError: if no profile can say it, as for HDR: the picture would look different.
    """
    if (cicp := chunks.get("cICP")) and cicp[:2] != b"\x02\x02":
        try:
            made = _of_cicp(cicp, grey=grey)
        except PictureError as error:
            if icc is None:
                raise
            return Said(icc, (f"{error}; the file's own colour profile says it to the others",))
        replaced = "the colour profile was replaced by one of the cICP chunk, which comes first"
        return Said(made, (replaced,) if icc else ())
    if icc is not None:
        return Said(icc)
    if "sRGB" in chunks:
        intent = chunks["sRGB"][0] if chunks["sRGB"][:1] in (b"\0", b"\1", b"\2", b"\3") else 0
        return Said(_profile("sRGB", _BT709, _SRGB, grey=grey, intent=intent))
    if "gAMA" not in chunks and "cHRM" not in chunks:
        return Said(None)
    try:
        return Said(_of_gamma(chunks, grey=grey))
    except (ValueError, struct.error, ZeroDivisionError, np.linalg.LinAlgError):
        return Said(None, ("PNG chunks gAMA and cHRM hold impossible values and were not kept",))


def grey_as_rgb(icc: bytes) -> bytes | None:
    """Return a profile that gives equal RGB the greys of a grey profile, None if it has no curve.

    For formats that hold no grey: white and primaries cancel out where all channels are equal.
    """
    if len(icc) < 132 or icc[16:20] != b"GRAY":
        return None
    (count,) = struct.unpack_from(">I", icc, 128)
    for at in range(132, min(132 + 12 * count, len(icc) - 11), 12):
        name, start, size = struct.unpack_from(">4sII", icc, at)
        curve = icc[start : start + size]
        if name == b"kTRC" and len(curve) == size and curve[:4] in (b"curv", b"para"):
            return _assembled("grey as RGB", _matrix(_BT709), curve, grey=False)
    return None


def _of_cicp(cicp: bytes, *, grey: bool) -> bytes:
    if len(cicp) != 4 or cicp[2] != 0:
        raise PictureError("declares colours by a cICP chunk that is not RGB; write PNG instead")
    primaries, transfer, _, full = cicp
    if transfer in _HDR:
        raise PictureError(
            f"declares HDR colours (cICP {_HDR[transfer]}), which a colour profile cannot say; "
            "write PNG instead"
        )
    if primaries not in _PRIMARIES or transfer not in _CURVES or full != 1:
        raise PictureError(
            f"declares colours (cICP {primaries}, {transfer}, 0, {full}) that a colour profile "
            "cannot say; write PNG instead"
        )
    name = f"cICP {primaries}-{transfer}"
    return _profile(name, _PRIMARIES[primaries], _CURVES[transfer], grey=grey)


def _of_gamma(chunks: Mapping[str, bytes], *, grey: bool) -> bytes:
    primaries, name = _BT709, ""
    curve: tuple[float, ...] = _SRGB
    if "gAMA" in chunks:
        (exponent,) = struct.unpack(">I", chunks["gAMA"])
        curve = (100_000 / exponent,)
        name = f"gamma {curve[0]:.4g}"
        if not 0.01 <= curve[0] <= 100:
            raise ValueError(f"gamma is {curve[0]}")
    if "cHRM" in chunks:
        values = [value / 100_000 for value in struct.unpack(">8I", chunks["cHRM"])]
        white, red, green, blue = zip(values[::2], values[1::2], strict=True)
        primaries = (white, red, green, blue)
        name += " cHRM"
    return _profile(name.strip(), primaries, curve, grey=grey)


Primaries = tuple[
    tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]
]


def _profile(
    name: str, primaries: Primaries, curve: Sequence[float], *, grey: bool, intent: int = 0
) -> bytes:
    kind = 0 if len(curve) == 1 else 3
    encoded = b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(*curve)
    return _assembled(name, _matrix(primaries), encoded, grey=grey, intent=intent)


def _adaptation(white: tuple[float, float]) -> NDArray[np.float64]:
    """Return the matrix that takes XYZ under `white` (x, y) to XYZ under D50."""
    x, y = white
    met = _BRADFORD @ np.array([x / y, 1.0, (1 - x - y) / y])
    wanted = _BRADFORD @ np.array(_D50)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(wanted / met) @ _BRADFORD
    return adapted


def _impossible(primaries: Primaries) -> ValueError:
    return ValueError(f"impossible primaries {primaries}")


def _matrix(primaries: Primaries) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (RGB to XYZ under D50, the adaptation in it); ValueError where there is none."""
    white, *colours = primaries
    if white[1] <= 0 or any(y < 0 or not 0 < x + y <= 1.0001 for x, y in colours):
        raise _impossible(primaries)
    columns = np.array([[x, y, 1 - x - y] for x, y in colours]).T
    met = np.array([white[0] / white[1], 1.0, (1 - white[0] - white[1]) / white[1]])
    adapted = _adaptation(white)
    matrix = adapted @ columns @ np.diag(np.linalg.solve(columns, met))
    if not np.isfinite(matrix).all() or abs(matrix).max() > 100:
        raise _impossible(primaries)
    return matrix, adapted


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _text(words: str) -> bytes:
    content = words.encode("utf-16-be")
    return b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(content), 28) + content


def _assembled(
    name: str,
    colours: tuple[NDArray[np.float64], NDArray[np.float64]],
    curve: bytes,
    *,
    grey: bool,
    intent: int = 0,
) -> bytes:
    """Return the bytes of a profile: header, table of tags, and what they hold."""
    matrix, adapted = colours
    tags = {
        b"desc": _text(name),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(*adapted.ravel()),
    }
    if grey:
        tags[b"kTRC"] = curve
    else:
        for number, letter in enumerate((b"r", b"g", b"b")):
            tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*matrix[:, number])
            tags[letter + b"TRC"] = curve
    places: dict[bytes, int] = {}
    body, start = b"", 128 + 4 + 12 * len(tags)
    for content in tags.values():
        if content not in places:
            places[content] = start + len(body)
            body += content + b"\0" * (-len(content) % 4)
    table = b"".join(struct.pack(">4sII", n, places[c], len(c)) for n, c in tags.items())
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sI4s4sQI12s4s44x",
        start + len(body), b"", 0x04300000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ ",
        2026, 1, 1, 0, 0, 0, b"acsp", b"", 0, b"", b"", 0, intent,
        _fixed(*_D50), b"",
    )  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + body
