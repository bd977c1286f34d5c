"""Whether a JPEG's compressed data is all there: decoders fill what is missing, and do not say so.

JPEG has no checksum. What shows damage are the marks of its structure: the end marker, restart
markers in their order, markers where none belong, every bit of a progressive picture announced,
long runs of zero bytes that the file's own Huffman tables rule out, and scans that end before
their part of the picture does (`probes`). What remains, a changed bit inside the data, nobody
can see. Source: ITU-T T.81.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PictureError
from pipeline.pictures.jpeg.probes import first_short, with_noise
from pipeline.pictures.jpeg.scans import EOI, PROGRESSIVE, Tables, scans_of
from pipeline.storage.large_arrays import equal
from pipeline.storage.spool import large_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.pictures.jpeg.scans import Frame, Scan

_HUFFMAN, _LOSSLESS = (0xC0, 0xC1, 0xC2), (0xC3,)
_NOT_ZERO, _STUFFED = re.compile(rb"[^\x00]"), re.compile(rb"\xff\x00")
_ZEROS = 256
"""So many zero bytes are more than two blocks whose every coefficient has the same odd value."""
_SECTOR = 512
"""What disks and transfers lose at once."""
_SPARE = 32
"""A whole picture needs all of its data, but for less than this."""
_UNEVEN, _FEW = 8, 32
"""Blocks whose pixels differ by more have details; the bits of so many are never all zero."""
# Two, as what one decodes to may look the same, such as darker than black.
_PROBES = (bytes(range(1, 255)) * 2, bytes(range(254, 0, -1)) * 2)
_END = b"\xff\xd9"
_PIECE = 1 << 20
_MISSING = "restore the file from its origin"


def check_whole(
    data: bytes, pixels: NDArray[Any] | None, *, decode: Callable[[bytes], NDArray[Any]]
) -> None:
    """Refuse a JPEG whose compressed data is not all there.

    `pixels` ``(y, x)`` or ``(y, x, c)`` is what `decode` makes of `data`, None where it fails. It
    is asked again only where something looks odd.

    Raises:
        PictureError: With what is missing.
    """
    tables = Tables()
    scans = list(scans_of(data, tables))
    if not scans or tables.frame is None:
        raise PictureError(f"holds no compressed data, expected some; {_MISSING}")
    stream = _Stream(data, tables.frame, pixels, decode)
    for scan in scans:
        stream.check_restarts(scan)
        stream.check_zeros(scan)
    stream.check_end(scans)
    stream.check_ends(scans)


def _zeros_at_end(data: bytes) -> int:
    """Return how many zero bytes a file ends with."""
    end = len(data)
    while end:
        start = max(0, end - _PIECE)
        if kept := len(data[start:end].rstrip(b"\0")):
            return len(data) - start - kept
        end = start
    return len(data)


def _uneven_blocks(pixels: NDArray[Any]) -> int:
    """Return how many whole blocks of 8 x 8 pixels ``(y, x)`` or ``(y, x, c)`` have details."""
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    cut = np.atleast_3d(pixels[: rows * 8, : columns * 8])
    blocks = cut.reshape(rows, 8, columns, 8, cut.shape[2])
    return int((np.ptp(blocks, axis=(1, 3)) > _UNEVEN).any(axis=-1).sum())


@dataclass(frozen=True, slots=True)
class _Stream:
    """A JPEG under examination."""

    data: bytes
    frame: Frame
    pixels: NDArray[Any] | None
    decode: Callable[[bytes], NDArray[Any]]

    def check_restarts(self, scan: Scan) -> None:
        """Refuse a scan that lacks restart markers, or has them in another order."""
        if self.frame.kind in _LOSSLESS:
            return  # Its units are other ones.
        found = len(scan.restarts)
        if not scan.interval:
            if found and not self._is_whole(scan, scan.end):
                raise PictureError(
                    f"holds {found} restart markers in the compressed data, expected none; it is "
                    f"damaged; {_MISSING}"
                )
            return
        wanted = -(-self.frame.units(scan.components) // scan.interval) - 1
        # One more at the end is a habit of some cameras.
        if not wanted <= found <= wanted + 1 or any(
            number != at % 8 for at, number in enumerate(scan.restarts)
        ):
            raise PictureError(
                f"holds {found} restart markers in the compressed data, wanted {wanted} in their "
                f"order; a part of it is missing; {_MISSING}"
            )

    def check_zeros(self, scan: Scan) -> None:
        """Refuse a scan with a run of zero bytes that no encoder can have written."""
        natural = self._zeros_mean_flat(scan)
        least = _SECTOR if natural and not self._is_plain(scan) else _ZEROS
        at = self.data.find(bytes(least), scan.start, scan.end)
        while at >= 0:
            match = _NOT_ZERO.search(self.data, at)
            end = min(scan.end, match.start() if match else len(self.data))
            if not (end == scan.end and self._is_whole(scan, at)) and not (
                natural and self._is_exact(scan, at, end)
            ):
                raise PictureError(
                    f"the compressed data holds {end - at} bytes of zero from byte {at}, where "
                    f"the picture was lost or never written; {_MISSING}"
                )
            at = self.data.find(bytes(least), end, scan.end)

    def _is_exact(self, scan: Scan, at: int, end: int) -> bool:
        """Return whether zeros may be the even area that their bits stand for.

        Lost data leaves whole sectors of zeros, and they stand for more of the picture than what
        was there, so that the picture is whole before the data ends.
        """
        if at % _SECTOR == 0 and end % _SECTOR == 0:
            return False
        if self._is_plain(scan):
            return self._is_even(scan, at, end)
        if not self._is_whole(scan, max(scan.start, scan.end - _SPARE)):
            return True
        # Of one value all over, tables know no other, and no data would change a pixel.
        return self._is_whole(scan, scan.start) or self._is_even(scan, at, end)

    def _is_plain(self, scan: Scan) -> bool:
        """Return whether a scan is the last bits of the blocks' means, one after the other."""
        return self.frame.kind == 0xC2 and scan.first == 0 and scan.high > 0

    def _is_even(self, scan: Scan, at: int, end: int) -> bool:
        """Return whether a part of the blocks' means is of rows that other scans say are even.

        The rows are taken by their share of the data. With one bit for each block that is exact;
        at the end of other scans it is too few rows, as even ones take the least data.
        """
        if self.pixels is None or self.frame.kind not in PROGRESSIVE or scan.first > 0:
            return False
        first, last, whole = (
            place - scan.start - sum(1 for _ in _STUFFED.finditer(self.data, scan.start, place))
            for place in (at, end, scan.end)
        )
        height, margin = len(self.pixels), 8 * max(v for _, v in self.frame.sampling.values())
        top = -(-height * first // (8 * whole)) * 8 + margin
        return _uneven_blocks(self.pixels[top : max(top, height * last // whole - margin)]) < _FEW

    def _zeros_mean_flat(self, scan: Scan) -> bool:
        """Return whether zero bits may be an even area, as this scan's tables are."""
        if self.frame.kind not in _HUFFMAN:
            return True
        if self.frame.kind not in PROGRESSIVE:
            return all(dc <= 1 and ac == 0 for dc, ac in scan.zero_symbols)
        if scan.high:
            return True  # Refinements are bits as they are.
        if scan.first == 0:
            return all(dc <= 1 for dc, _ in scan.zero_symbols)
        return all(ac == 0 for _, ac in scan.zero_symbols)

    def check_end(self, scans: list[Scan]) -> None:
        """Refuse a picture whose data ends before the picture does."""
        final = scans[-1]
        if final.marker is None:
            tail = _zeros_at_end(self.data)
            if not tail or not self._is_whole(final, max(final.start, len(self.data) - tail)):
                zeros = f", the last {tail} are zero" if tail else ""
                raise PictureError(
                    f"ends after {len(self.data)} bytes{zeros} without its end marker, so "
                    f"it was cut off; {_MISSING}"
                )
        elif self.frame.kind in PROGRESSIVE:
            self._check_bits(scans)
        elif lost := self.frame.sampling.keys() - {c for scan in scans for c in scan.components}:
            raise PictureError(
                f"holds {len(scans)} scans, {len(lost)} of its colour components are missing; "
                f"{_MISSING}"
            )
        # Decoders make even mid-grey of what is missing.
        even = self.pixels is not None and bool((self.pixels[-8:, -8:] == 128).all())
        odd = final.marker != EOI or even
        if odd and final.marker is not None and not self._is_whole(final, final.end):
            raise PictureError(
                f"the compressed data ends at byte {final.end}, before the picture does; {_MISSING}"
            )

    def _check_bits(self, scans: list[Scan]) -> None:
        """Refuse a progressive picture of which later scans are missing."""
        left = {(c, k): 1 for c in self.frame.sampling for k in range(64)}
        for scan in scans:
            for component in scan.components:
                for k in range(scan.first, min(scan.last, 63) + 1):
                    left[component, k] = scan.low
        missing = sum(1 for low in left.values() if low)
        if missing:
            raise PictureError(
                f"is a progressive JPEG of which the last scans are missing ({len(scans)} are "
                f"there, {missing} of {len(left)} coefficients stay coarse); {_MISSING}"
            )

    def check_ends(self, scans: list[Scan]) -> None:
        """Refuse a picture of several scans, one of which ends before its part of the picture does.

        Only Huffman codes have a last bit: after arithmetic ones decoders go on with zeros.
        """
        if self.pixels is None or self.frame.kind not in _HUFFMAN or len(scans) < 2:
            return
        ends = [scan.ends for scan in scans]
        short = first_short(ends, lambda some: self._is_same(with_noise(self.data, some)))
        if short is not None:
            raise PictureError(
                f"a part of the compressed data of scan {short + 1} of {len(scans)} is missing; "
                f"{_MISSING}"
            )

    def _is_whole(self, scan: Scan, end: int) -> bool:
        """Return whether the picture needs nothing of a scan after byte `end`.

        Other data there changes the pixels only where the decoder waits for some.
        """
        whole = memoryview(self.data)
        tail = whole[scan.end :] if scan.marker is not None else memoryview(_END)
        size_bytes = end + len(_PROBES[0]) + len(tail)
        changed = (large_bytes([whole[:end], probe, tail], size_bytes) for probe in _PROBES)
        return all(self._is_same(data) for data in changed)

    def _is_same(self, data: bytes) -> bool:
        """Return whether changed data decodes to the pixels of the file."""
        if self.pixels is None:
            return False
        try:
            return equal(self.decode(data), self.pixels)
        except Exception:  # Decoders raise anything on damaged bytes: then it is not the same.
            return False
