"""Perceptual hashes that were seen: whether another one is near to any of them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BITS = 64


class SeenHashes:
    """Hashes of 64 bits, looked up by nearness.

    Two hashes that differ in `bits` places at most agree in one of ``bits + 1`` bands whole, so
    only those that share a band are compared (Manku et al., "Detecting near-duplicates for web
    crawling", 2007).
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        edges = [_BITS * band // (bits + 1) for band in range(bits + 2)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._seen: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bands]

    def add(self, hashes: Iterable[int]) -> None:
        """Remember hashes."""
        for value in map(int, hashes):
            self._remember(value)

    def is_new(self, value: int) -> bool:
        """Return whether no hash that was seen is near, and remember it then."""
        for (low, mask), seen in zip(self._bands, self._seen, strict=True):
            near = seen.get((value >> low) & mask, ())
            if any((value ^ other).bit_count() <= self._bits for other in near):
                return False
        self._remember(value)
        return True

    def _remember(self, value: int) -> None:
        for (low, mask), seen in zip(self._bands, self._seen, strict=True):
            seen[(value >> low) & mask].append(value)
