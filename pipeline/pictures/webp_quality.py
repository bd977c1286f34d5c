"""How strongly a lossy WebP picture was compressed: the quantiser that its header names.

Source: RFC 6386 (VP8), sections 7, 9.2 to 9.6 and 19.2; the relation of quantiser and quality is
that of libwebp's encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

_HEADER_BYTES = 10
_START_CODE = b"\x9d\x01\x2a"
_COARSEST = 127


def webp_quality(frame: bytes) -> int | None:
    """Return the quality from 0 to 100 of a VP8 key frame; None where it is not one."""
    if len(frame) < _HEADER_BYTES + 2 or frame[0] & 1 or frame[3:6] != _START_CODE:
        return None
    quantiser = _quantiser(_Bits(frame[_HEADER_BYTES:]))
    cubed = (1 - min(quantiser, _COARSEST) / _COARSEST) ** 3
    return round(100 * (1.5 * cubed if cubed <= 0.5 else (cubed + 1) / 2))


def _quantiser(bits: _Bits) -> int:
    """Return the quantiser of a frame, or the mean of those of its segments."""
    bits.number(2)  # Colour space, clamping.
    absolute, segments = _segments(bits) if bits.number(1) else (False, [])
    bits.number(1 + 6 + 3)  # Loop filter.
    if bits.number(1) and bits.number(1):
        for _ in range(8):
            bits.optional(6)
    bits.number(2)  # Partitions.
    base = bits.number(7)
    mean = round(sum(segments) / len(segments)) if segments else 0
    return max(0, mean if absolute and segments else base + mean)


def _segments(bits: _Bits) -> tuple[bool, list[int]]:
    """Return whether the quantisers of segments stand by themselves, and these."""
    updates_map, updates_data = bits.number(1), bits.number(1)
    absolute, quantisers = False, []
    if updates_data:
        absolute = bool(bits.number(1))
        quantisers = [bits.optional(7) for _ in range(4)]
        for _ in range(4):
            bits.optional(6)
    if updates_map:
        for _ in range(3):
            if bits.number(1):
                bits.number(8)
    return absolute, quantisers


@dataclass(slots=True)
class _Bits:
    """Bits of even chances, as VP8's arithmetic decoder reads them; zeros after the end."""

    data: bytes
    _at: int = 0
    _value: int = 0
    _range: int = 255
    _have: int = 0

    def number(self, bits: int) -> int:
        """Return an unsigned number of so many bits."""
        value = 0
        for _ in range(bits):
            value = value * 2 + self._bit()
        return value

    def optional(self, bits: int) -> int:
        """Return a number with a sign after it, 0 where a bit says that there is none."""
        if not self._bit():
            return 0
        value = self.number(bits)
        return -value if self._bit() else value

    def _bit(self) -> int:
        while self._have < 8:
            byte = self.data[self._at] if self._at < len(self.data) else 0
            self._value, self._have, self._at = (
                self._value << 8 | byte,
                self._have + 8,
                self._at + 1,
            )
        split = 1 + ((self._range - 1) * 128 >> 8)
        at = split << (self._have - 8)
        bit = int(self._value >= at)
        if bit:
            self._value, self._range = self._value - at, self._range - split
        else:
            self._range = split
        while self._range < 128:
            self._range, self._have = self._range * 2, self._have - 1
        return bit
