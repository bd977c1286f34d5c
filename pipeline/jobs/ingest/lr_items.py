"""Items of an LR archive as the ledger records them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.storage.ledger import INGESTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.storage.image import StoredImage
    from pipeline.storage.ledger import ItemRow
    from pipeline.storage.stack_index import Member

GONE = "is gone from the source, or left out"
"""Why an item vanished, after its source."""


def with_place(row: ItemRow, member: Member | None) -> ItemRow:
    """Return the row of an item that is in a stack at the place of `member`, if it is in one."""
    if member is None:
        return row
    return replace(row, stack=member.stack, chunk=member.chunk, place=member.place)


def with_facts(row: ItemRow, shape: tuple[int, ...], dtype: str) -> ItemRow:
    """Return the row of an item whose pixels have this shape ``(c, y, x)``."""
    return replace(row, channels=shape[0], height=shape[1], width=shape[2], dtype=dtype)


def notes_of(image: StoredImage) -> tuple[str, ...]:
    """Return the notes in an image's provenance; one of an earlier upres has none."""
    return tuple(image.provenance.get("notes", ()))


def with_known_upscaling(row: ItemRow, known: Mapping[str, ItemRow]) -> ItemRow:
    """Return a row with the fingerprint and units recorded before, if its content is the same."""
    before = known.get(row.item)
    if before is None or row.state != INGESTED or before.sha256 != row.sha256:
        return row
    return replace(row, fingerprint=before.fingerprint, units=before.units)
