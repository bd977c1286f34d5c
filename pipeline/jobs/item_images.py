"""The images of the ledger's items, from where it says that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ArchiveError

if TYPE_CHECKING:
    from pipeline.storage.archive import Archive
    from pipeline.storage.image import StoredImage
    from pipeline.storage.ledger import ItemRow


def lr_image(source: Archive, row: ItemRow) -> StoredImage:
    """Open the LR image of an item.

    Raises:
        ArchiveError: if the archive holds none there, or another one.
    """
    return source.image_at(row.item, stack=row.stack, chunk=row.chunk, place=row.place)


def sr_image(sr: Archive, row: ItemRow) -> StoredImage:
    """Open the SR image of an item.

    Raises:
        ArchiveError: if the archive holds none there, or that of other pixels or another spec.
    """
    image = sr.image_at(row.item, stack=row.stack, chunk=row.chunk, place=row.place)
    if image.provenance.get("fingerprint") != row.fingerprint:
        raise ArchiveError(
            f"{row.item} in sr.zarr was computed by an earlier upscaling; repeat the "
            "`upres upscale` command"
        )
    return image
