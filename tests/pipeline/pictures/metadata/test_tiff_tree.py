"""The tree of directories that TIFF and EXIF are: what is packed is read again."""

from __future__ import annotations

import struct
from typing import Literal

import pytest

from pipeline.pictures.metadata.tiff_tree import (
    Layout,
    Tag,
    classic,
    entries,
    leaves,
    pack_directory,
    packed_tree,
    pruned,
    read_tree,
)

NAME = Tag(271, 2, 6, b"maker\0")
BELOW = Tag(34665, 4, 1, (Tag(37500, 7, 9, b"its notes"), Tag(40962, 3, 1, b"\x07\0")))
TREE = (Tag(256, 3, 1, b"\x05\0"), NAME, BELOW)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_packed_tree_is_read_as_it_was(order: Literal["<", ">"]) -> None:
    data = packed_tree(TREE, order)
    layout = Layout.of(data)
    assert layout == Layout(order, big=False)
    assert read_tree(data, layout.root(data), layout) == TREE


def test_a_directory_of_big_tiff_keeps_numbers_of_64_bits_until_it_is_made_classic() -> None:
    layout = Layout("<", big=True)
    small, large = struct.pack("<Q", 7), struct.pack("<Q", 2**40)
    tags = (Tag(1, 16, 1, small), Tag(2, 16, 1, large), Tag(3, 2, 9, b"nine char"))
    data = b"\0" * 16 + pack_directory(tags, 16, layout)
    assert read_tree(data, 16, layout) == tags
    narrow = [classic(tag, layout) for tag in tags]
    assert narrow == [Tag(1, 4, 1, b"\x07\0\0\0"), Tag(2, 7, 8, large), tags[2]]


def test_leaves_are_found_and_pruned_wherever_they_are() -> None:
    assert isinstance(BELOW.value, tuple)
    assert [tag.code for tag in leaves(TREE)] == [256, 271, 37500, 40962]
    left = tuple(pruned(TREE, {id(NAME), id(BELOW.value[0])}))
    assert [tag.code for tag in leaves(left)] == [256, 40962]


def test_a_directory_that_ends_behind_the_data_is_refused() -> None:
    data = packed_tree(TREE, "<")
    layout = Layout.of(data)
    with pytest.raises(ValueError, match="a directory of 3 entries at byte 8 reaches beyond"):
        list(entries(data[:30], 8, layout))


def test_what_is_not_a_tiff_structure_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with II or MM"):
        Layout.of(b"PK\3\4\0\0\0\0")
