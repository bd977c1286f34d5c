"""Seen hashes: what the lookup by bands finds is what comparing with all finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.hashes import SeenHashes
from tests.examples import examples

BITS = range(17)
ALL = 2**64 - 1


def near(one: int, other: int, bits: int) -> bool:
    return (one ^ other).bit_count() <= bits


class Slow:
    """The same by comparing with every hash that was remembered."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.seen: list[int] = []

    def add(self, hashes: list[int]) -> None:
        self.seen += hashes

    def is_new(self, value: int) -> bool:
        if any(near(value, other, self.bits) for other in self.seen):
            return False
        self.seen.append(value)
        return True


@st.composite
def neighbours(draw: st.DrawFn) -> list[int]:
    """Return hashes of which many differ in few bits, at, below and above every threshold."""
    centres = draw(st.lists(st.integers(0, ALL), min_size=1, max_size=4))
    found = []
    for _ in range(draw(st.integers(1, 25))):
        value = draw(st.sampled_from(centres))
        for bit in draw(st.sets(st.integers(0, 63), max_size=18)):
            value ^= 1 << bit
        found.append(value)
    return found


@examples(150)
@given(st.integers(0, 16), neighbours(), neighbours())
def test_the_lookup_equals_comparing_with_all(bits: int, before: list[int], new: list[int]) -> None:
    fast, slow = SeenHashes(bits), Slow(bits)
    fast.add(before)
    slow.add(before)
    assert [fast.is_new(value) for value in new] == [slow.is_new(value) for value in new]


@pytest.mark.parametrize("bits", BITS)
def test_a_hash_is_near_up_to_so_many_bits_wherever_they_lie_and_not_at_one_more(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for _ in range(100):
        value = int(rng.integers(0, ALL, dtype=np.uint64, endpoint=True))
        flips = [1 << int(bit) for bit in rng.choice(64, bits + 1, replace=False)]
        just_near, too_far = value ^ sum(flips[:-1]), value ^ sum(flips)
        seen = SeenHashes(bits)
        seen.add([value])
        assert not seen.is_new(just_near)
        assert seen.is_new(too_far)


@pytest.mark.parametrize("bits", BITS)
def test_bits_that_lie_side_by_side_or_one_in_each_band_are_found(bits: int) -> None:
    for start in range(64 - bits):
        seen = SeenHashes(bits)
        seen.add([0])
        assert not seen.is_new(((1 << bits) - 1) << start)
    seen = SeenHashes(bits)
    seen.add([ALL])
    spread = sum(1 << (64 * band // (bits + 1)) for band in range(bits))
    assert not seen.is_new(ALL ^ spread)


@pytest.mark.parametrize("bits", BITS)
def test_many_random_hashes_are_told_as_by_comparing_with_all(bits: int) -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**20, 150, dtype=np.uint64).tolist()
    fast, slow = SeenHashes(bits), Slow(bits)
    assert [fast.is_new(h) for h in hashes] == [slow.is_new(h) for h in hashes]


def test_a_new_hash_is_remembered_and_one_that_is_near_is_not() -> None:
    seen = SeenHashes(1)
    assert seen.is_new(0b000)
    assert not seen.is_new(0b001)
    # Near to the one that was turned down, but not to one that was kept.
    assert seen.is_new(0b011)
    assert not seen.is_new(0b111)


def test_hashes_of_an_array_are_added_as_they_are() -> None:
    seen = SeenHashes(0)
    seen.add(np.array([0, ALL, 2**63], dtype=np.uint64))
    assert [seen.is_new(value) for value in (0, ALL, 2**63, 1)] == [False, False, False, True]
