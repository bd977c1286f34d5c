"""EXIF: whose a picture is, as cameras and editors write it; what is broken says nothing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pictures.metadata.exif import copyright_of
from tests.examples import examples

COPYRIGHT = 33432


def exif(*tags: tuple[int, bytes], order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF structure with text tags in its first directory."""

    def pack(classic: str, bigger: str, *values: int) -> bytes:
        return struct.pack(order + (bigger if big else classic), *values)

    mark = b"II" if order == "<" else b"MM"
    head = mark + pack("HI", "HHHQ", *((43, 8, 0, 16) if big else (42, 8)))
    slot = 8 if big else 4
    size = 20 if big else 12
    directory = pack("H", "Q", len(tags))
    behind_at = len(head) + len(directory) + size * len(tags) + slot
    behind = b""
    for code, text in tags:
        if len(text) <= slot:
            value = text.ljust(slot, b"\0")
        else:
            value = pack("I", "Q", behind_at + len(behind))
            behind += text
        directory += pack("HHI", "HHQ", code, 2, len(text)) + value
    return head + directory + b"\0" * slot + behind


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("text", ["A", "Ann", "Ann Example, 2024"])
def test_the_owner_is_found_in_every_layout(text: str, order: str, big: bool) -> None:
    data = text.encode() + b"\0"
    made = exif((271, b"Maker\0"), (COPYRIGHT, data), (40093, b"Author\0"), order=order, big=big)
    assert copyright_of(made) == text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"Ann\0Ben\0", "Ann; Ben"),
        (b" \0Ben\0", "Ben"),
        (b"Ann\0", "Ann"),
        (b"Ann", "Ann"),
        (b"  Ann  \0\0\0\0", "Ann"),
        ("© Ünal\0".encode(), "© Ünal"),
        ("© Ünal\0".encode("cp1252"), "© Ünal"),
        (b"\x81\xff\0", "\ufffdÿ"),
        (b"\0\0\0\0", ""),
        (b"      ", ""),
    ],
)
def test_the_owner_is_read_as_it_is_written(written: bytes, read: str) -> None:
    assert copyright_of(exif((COPYRIGHT, written))) == read


@pytest.mark.parametrize(
    "said",
    [None, b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II+\0" + b"\0" * 4, b"x" * 99, exif()],
)
def test_what_is_broken_or_silent_has_no_owner(said: bytes | None) -> None:
    assert copyright_of(said) == ""


def test_an_owner_that_lies_behind_the_end_is_none() -> None:
    assert copyright_of(exif((COPYRIGHT, b"Ann Example\0"))[:-6]) == ""


@examples(200)
@given(
    st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10"]),
    st.binary(max_size=80),
)
def test_any_bytes_have_an_owner_or_none(head: bytes, rest: bytes) -> None:
    assert isinstance(copyright_of(head + rest), str)


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4))
def test_damaged_exif_has_an_owner_or_none(damage: list[tuple[int, int]]) -> None:
    data = bytearray(exif((271, b"Maker\0"), (COPYRIGHT, b"Ann Example\0")))
    for place, value in damage:
        data[place % len(data)] = value
    assert isinstance(copyright_of(bytes(data)), str)
