"""What travels along of XMP: packets turned with their picture, and fitted to a format.

What a step cannot keep is a note, one sentence each. XMP that cannot be parsed is kept as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.pictures.formats import Block
from pipeline.pictures.jpeg.segments import guid_of
from pipeline.pictures.metadata import xmp, xmp_extension
from pipeline.pictures.metadata.metadata import in_words, listed

if TYPE_CHECKING:
    from pipeline.pictures.metadata.metadata import Metadata
    from pipeline.pictures.metadata.target import Target

_UNPARSED = "the XMP cannot be parsed, and was kept as it is"


def turned_xmp(packet: bytes, turn: int, size: tuple[int, int], notes: list[str]) -> bytes:
    """Return a packet for the pixels turned upright; `size` is that of the stored picture."""
    try:
        cut = xmp.without_regions(packet)
        packet = xmp.turned(cut.xmp, turn, width=size[0], height=size[1])
    except ValueError:
        return packet
    if cut.removed:
        notes.append(f"XMP {listed(cut.removed)}: removed, as the picture was turned")
    return packet


def fit_xmp(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    """Return metadata whose XMP is true of the target's pixels, and has a place there."""
    packet, extended = metadata.xmp, metadata.xmp_extended
    if packet is None:
        return metadata
    try:
        packet, extended = _true_xmp(packet, extended, target, notes)
    except ValueError:
        notes.append(_UNPARSED)
        if extended and not target.carries(Block.XMP_EXTENSION):
            notes.append("the extension of the XMP was not kept")
            extended = None
    if len(packet) > target.format.most(Block.XMP):
        packet, extended = _parted_xmp(packet, extended, target, notes)
    if not packet and _UNPARSED in notes:
        notes.remove(_UNPARSED)
    return replace(metadata, xmp=packet or None, xmp_extended=extended)


def _true_xmp(
    packet: bytes, extended: bytes | None, target: Target, notes: list[str]
) -> tuple[bytes, bytes | None]:
    """Return both parts of the XMP made true; one part, where the format has no other."""
    packet, removed, false = _true_part(packet, target)
    if extended:
        rest, more, more_false = _true_part(extended, target)
        removed, false = removed + more, false + more_false
        if xmp_extension.is_empty(rest):
            packet, extended = xmp_extension.without_reference(packet), None
        elif not target.carries(Block.XMP_EXTENSION):
            packet, extended = xmp_extension.with_extension(packet, rest), None
        else:
            packet, extended = xmp_extension.referring(packet, guid_of(rest)), rest
    if removed:
        notes.append(
            f"XMP {listed(removed)}: removed, as it is about parts that are not in this file"
        )
    if false:
        notes.append(f"XMP {listed(false)}: removed, as upres cannot enlarge it with the picture")
    return packet, extended


def _true_part(packet: bytes, target: Target) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Return a packet made true, and what was cut out: of lost parts, and what cannot be true."""
    lost = xmp.without_lost_parts(packet)
    false = xmp.without_unscalable(lost.xmp)
    resized = xmp.resized(false.xmp, width=target.width, height=target.height)
    return resized, lost.removed, false.removed


def _parted_xmp(
    packet: bytes, extended: bytes | None, target: Target, notes: list[str]
) -> tuple[bytes, bytes | None]:
    """Return XMP that is too large for one place of the target in two parts."""
    packet = xmp_extension.unwrapped(packet)
    if len(packet) <= target.format.most(Block.XMP):
        return packet, extended
    try:
        whole = xmp_extension.with_extension(packet, extended) if extended else packet
        xmp_extension.is_empty(whole)
        has_parts = target.carries(Block.XMP_EXTENSION)
    except ValueError:
        has_parts = False
    if not has_parts:
        size, name = in_words(len(packet)), target.format.title
        notes.append(f"the XMP of {size} is too large for {name}, and was not kept")
        return b"", None
    extended = xmp_extension.extension_of(whole)
    return xmp_extension.reference(guid_of(extended)), extended
