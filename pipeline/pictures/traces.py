"""Traces: what lossy compression and noise have left in a picture.

A file that is compressed with loss says how (`of_file`). One that is not may hold a picture that
once was a JPEG, whose pixels show it (`of_pixels`): there the values of a transform of 8x8 blocks
gather around multiples of the steps they were rounded to, on one grid and on no other.

Sources: ITU-T T.81 annex K (tables); Fan and de Queiroz, "Identification of bitmap compression
history", 2003 (steps); Nikoukhah et al., "ZERO", 2021 (the grid shows in its zeros); Immerkaer,
"Fast noise variance estimation", 1996.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from models.bt601 import LUMA
from pipeline.pictures.codecs.jpeg_tables import jpeg_compression
from pipeline.pictures.picture import WHITE
from pipeline.pictures.webp_quality import webp_quality

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_SIDE_PX, _WINDOWS = 96, 3
"""Of the windows whose steps are looked for: the cost does not grow with the picture."""
_LEAST_SIDE_PX = 32
_FLATTEST, _FLAT, _ALIKE = 0.05, 0.3, 1.35
"""Shares of the blocks, sorted, that are as rough as each other where noise is all that is in them;
where they differ by more, it is texture."""
_OF_MEAN = 0.71
"""Roughness of the flattest blocks of pure noise, measured, as a share of the mean of all."""
_HIGH = 92
"""Quality of a JPEG above which it hides traces of an earlier one badly."""
_LEAST_EVIDENCE = 4.0
"""Photographs that never were JPEGs stay below half of it."""
_STEPS = np.arange(2, 41, dtype=np.float32)
_FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2))
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Steps of quality 50, by row and column of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """How a picture was compressed, and how noisy it is."""

    codec: str = ""
    """What compressed it with loss, such as JPEG; "" where nothing did."""
    quality: int | None = None
    """From 1 to 100, as the IJG's encoder counts; None where that is not known."""
    subsampling: str = ""
    """Of the chroma, such as 4:2:0; "" where that is not known."""
    once: bool = False
    """Whether not the file says so but its pixels."""
    noise: float = 0.0
    """Standard deviation where little else is, in levels of 255; 0 where texture hides it."""

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Traces:
        """Read what `to_json` gave; keys of a later upres are left out."""
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in values.items() if name in known})


def traces(data: bytes, format: str, pixels: NDArray[Any]) -> Traces:
    """Return the traces in a picture ``(c, h, w)`` that was read from a file of `format`.

    A JPEG of high quality may hold what was a JPEG of a lower one before.
    """
    file = of_file(data, format)
    if file is None:
        return of_pixels(pixels)
    if file.codec == "JPEG" and (file.quality or 0) > _HIGH:
        before = of_pixels(pixels)
        if before.quality is not None and before.quality <= _HIGH:
            return before
    return file


def of_file(data: bytes, format: str) -> Traces | None:
    """Return what a file says of its own compression; None where it is lossless, or silent."""
    kind = format.lower()
    if kind == "jpeg":
        return _of_jpeg(data)
    if kind == "webp":
        return _of_webp(data)
    if kind == "avif":
        return None if _has_identity_matrix(data) else Traces(codec="AVIF")
    return None


def of_pixels(pixels: NDArray[Any]) -> Traces:
    """Return the traces that pixels ``(c, h, w)`` show.

    Only integers show steps; pictures of less than 32 px on a side are too small to tell.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # Floating point may hold NaN.
        windows = _windows(pixels)
    if not windows:
        return Traces()
    with np.errstate(invalid="ignore", over="ignore"):
        noise = round(_noise(windows), 2)
    if pixels.dtype != np.uint8:
        return Traces(noise=noise)
    quality = _quality(windows[:_WINDOWS])
    if quality is None:
        return Traces(noise=noise)
    return Traces(codec="JPEG", quality=quality, once=True, noise=noise)


def _of_jpeg(data: bytes) -> Traces | None:
    found = jpeg_compression(data)
    if found is None:
        return None
    quality = _quality_of(np.array(found.luma, dtype=np.float64), np.arange(64))
    return Traces(codec="JPEG", quality=quality, subsampling=found.subsampling)


def _quality_of(steps: NDArray[Any], places: NDArray[Any]) -> int:
    """Return the quality by the IJG's count whose table has at `places` the steps nearest to these.

    Places count row by row.
    """
    distance = np.abs(np.log(_TABLES[:, places] / np.maximum(steps, 1))).sum(axis=1)
    # The last of those that are as near: their steps cannot become finer.
    return 100 - int(distance[::-1].argmin())


def _tables() -> NDArray[np.float64]:
    """Return the steps ``(qualities, places)`` of the IJG's encoder at qualities 1 to 100."""
    quality = np.arange(1, 101)[:, None]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps: NDArray[np.float64] = np.clip((_LUMA.ravel() * percent + 50) // 100, 1, 255)
    return steps.astype(np.float64)


_TABLES = _tables()


def _of_webp(data: bytes) -> Traces | None:
    """Return what a WebP file's first picture says; VP8L is lossless."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"VP8L":
            return None
        if name == b"VP8 ":
            quality = webp_quality(data[at + 8 : at + 8 + size])
            return Traces(codec="WebP", quality=quality, subsampling="4:2:0")
        # The picture of an animation is inside its frame, behind 16 bytes.
        at += 24 if name == b"ANMF" else 8 + size + size % 2
    return None


def _has_identity_matrix(data: bytes) -> bool:
    """Return whether an AVIF file stores red, green and blue: lossless ones do, and few others."""
    at = data.find(b"colrnclx")
    return at >= 0 and data[at + 12 : at + 14] == b"\0\0"


def _windows(pixels: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Return the luma of some windows ``(h, w)`` in levels of 255, all on the picture's 8x8 grid.

    They do not overlap. Those with the most in them come first: a margin of one colour says little.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < _LEAST_SIDE_PX:
        return []
    rows, cols = _starts(height), _starts(width)
    found = [_luma(pixels[:, r : r + _SIDE_PX, c : c + _SIDE_PX]) for r in rows for c in cols]
    return sorted(found, key=lambda window: -float(np.abs(np.diff(window)).mean()))


def _starts(length: int) -> list[int]:
    """Return where up to three windows begin, spread over a length."""
    fit = max(1, min(3, length // _SIDE_PX))
    room = max(0, length - fit * _SIDE_PX)
    return [(k * _SIDE_PX + room * (k + 1) // (fit + 1)) // 8 * 8 for k in range(fit)]


def _luma(pixels: NDArray[Any]) -> NDArray[np.float32]:
    scale = np.float32(255 / WHITE[str(pixels.dtype)])
    y: NDArray[np.float32]
    if pixels.shape[0] < 3:
        y = pixels[0] * scale
    else:
        red, green, blue = pixels[:3].astype(np.float32)
        y = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) * scale
    return y.astype(np.float32)


def _noise(windows: Sequence[NDArray[np.float32]]) -> float:
    """Return the standard deviation of what a plane does not explain, in the flattest blocks."""
    blocks = np.concatenate([_roughness(window) for window in windows])
    flattest, flat = np.quantile(blocks, [_FLATTEST, _FLAT])
    noise = float(flattest) * math.sqrt(math.pi / 2) / 6
    return noise / _OF_MEAN if flat <= _ALIKE * flattest else 0.0


def _roughness(x: NDArray[np.float32]) -> NDArray[Any]:
    """Return the mean second derivative of each 8x8 block, along rows and columns at once."""
    across = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    both = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    h, w = both.shape[0] // 8, both.shape[1] // 8
    means: NDArray[Any] = both[: 8 * h, : 8 * w].reshape(h, 8, w, 8).mean(axis=(1, 3))
    return means.ravel()


def _quality(windows: Sequence[NDArray[np.float32]]) -> int | None:
    """Return the quality of the JPEG that windows once were, None where they show none."""
    for row, col in dict.fromkeys([(0, 0), _grid(windows)]):
        aligned = _coefficients(windows, row, col)
        beside = _coefficients(windows, (row + 4) % 8, (col + 4) % 8)
        steps, evidence = _likeliest_steps(aligned, beside)
        clear = evidence > _LEAST_EVIDENCE
        if clear.sum() >= len(_FREQUENCIES) // 2:
            places = np.array([8 * r + c for r, c in _FREQUENCIES])
            return _quality_of(steps[clear], places[clear])
    return None


def _transform() -> NDArray[np.float32]:
    k = np.arange(8)
    cosines = np.cos((2 * k[None] + 1) * k[:, None] * np.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    return cosines.astype(np.float32)


_DCT = _transform()


def _grid(windows: Sequence[NDArray[np.float32]]) -> tuple[int, int]:
    """Return the row and column at which the 8x8 grid most likely begins.

    There, most of a block's highest frequencies were rounded to zero.
    """
    return _offset(windows, axis=0), _offset(windows, axis=1)


def _offset(windows: Sequence[NDArray[np.float32]], axis: int) -> int:
    zeros = np.zeros(8)
    for window in windows:
        lines = window if axis == 1 else window.T
        high = sliding_window_view(lines[::2], 8, axis=1) @ _DCT[5:].T
        near = (np.abs(high) < 0.75).mean(axis=(0, 2))
        zeros += [float(near[start::8].mean()) for start in range(8)]
    return int(zeros.argmax())


def _coefficients(
    windows: Sequence[NDArray[np.float32]], row: int, col: int
) -> NDArray[np.float32]:
    """Return the transforms ``(blocks, frequencies)`` of the blocks of a grid."""
    found = []
    for window in windows:
        rows, cols = (window.shape[0] - row) // 8, (window.shape[1] - col) // 8
        part = window[row : row + 8 * rows, col : col + 8 * cols]
        blocks = part.reshape(rows, 8, cols, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
        low = _DCT[:3] @ blocks @ _DCT[:3].T
        found.append(np.stack([low[:, r, c] for r, c in _FREQUENCIES], axis=1))
    return np.concatenate(found)


def _likeliest_steps(
    aligned: NDArray[np.float32], beside: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return for each frequency the likeliest step, and by how much it is clearer than beside.

    Both in standard deviations of chance; `beside` are the blocks of the grid farthest away, whose
    values gather around nothing.
    """
    gathered = _gathered(aligned, _STEPS[:, None])
    steps = _STEPS[gathered.argmax(axis=0)]
    return steps, gathered.max(axis=0) - np.maximum(0, _gathered(beside, steps[None])[0])


def _gathered(values: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[Any]:
    """Return ``(steps, frequencies)``: how much values gather around the multiples of a step.

    `steps` are ``(steps, 1)``, or ``(steps, frequencies)`` where each frequency has its own.

    A value nearer to zero than to the first multiple says nothing. A step of which all multiples
    are those of a larger one gathers less than that, as noise is more of it.
    """
    ratios = values[None] / steps[:, None]
    counts = np.abs(ratios) > 0.6
    sums = (np.cos(2 * np.pi * ratios) * counts).sum(axis=1)
    counted = counts.sum(axis=1)
    return np.where(counted >= 8, sums / np.sqrt(np.maximum(counted, 1) / 2), 0.0)
