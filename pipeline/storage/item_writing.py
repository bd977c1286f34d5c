"""How the folder of an item is written into an archive, removed from it, and made durable.

What an archive holds, and where, is in `pipeline.storage.archive`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError, UnreadableError
from pipeline.geometry import Rect, cuts
from pipeline.storage.disk import fsync, remove_tree
from pipeline.storage.item_folders import is_claimed, is_unfinished, item_folders
from pipeline.storage.item_paths import item_of, item_path, name_of, outer_items
from pipeline.storage.zarr_metadata import LEVEL, METADATA, read_metadata

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

    from pipeline.storage.image import Layout
    from pipeline.storage.store import Place


def write_pixels(array: zarr.Array[Any], pixels: NDArray[Any], layout: Layout) -> None:
    """Write a whole image, shard by shard: of a large picture no second copy is made."""
    for rows in cuts(array.shape[1], layout.shard_px[0]):
        for cols in cuts(array.shape[2], layout.shard_px[1]):
            index = Rect(rows, cols).index
            array[index] = np.ascontiguousarray(pixels[index])


def remove_item(root: Place, item: str) -> None:
    """Remove an item and its pixels, if it is there, however damaged it is.

    Raises:
        ArchiveError: if it is not an item but a folder of items.
    """
    path = item_path(item)
    folder = root / path
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    if not is_claimed(folder):
        below = (p for p in item_folders(root, path) if p != path)
        inner = next((p for p in sorted(below) if not is_unfinished(root / p)), None)
        if inner is not None:
            raise ArchiveError(
                f"{root}: the item {name_of(inner)!r} is inside {item!r}; rename one of them"
            )
    # Without its group file the item is gone for every reader before pixels vanish.
    (folder / METADATA).unlink(missing_ok=True)
    remove_tree(folder)


def mend_outer(root: Place, path: str) -> None:
    """Remove unreadable metadata of the folders around an item: Zarr writes them again."""
    for outer in outer_items(path):
        file = root / outer / METADATA
        try:
            kind = read_metadata(file.parent).get("node_type")
        except UnreadableError:
            raise
        except ArchiveError:
            file.unlink(missing_ok=True)
            continue
        if kind != "group":
            raise ArchiveError(
                f"{root}: {item_of(path)!r} would be inside {outer!r}, which is "
                f"{kind!r}, expected a group; delete the folder {outer!r}"
            )


def sync_metadata(root: Place, path: str) -> None:
    """Make the metadata of one item durable, and the folders that lead to it."""
    folder = root / path
    outer = folder.parents[: path.count("/") + 1]
    level = folder / LEVEL
    for synced in (level / METADATA, level, folder / METADATA, folder, *outer):
        fsync(synced)
