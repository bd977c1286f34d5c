"""How the folder of an item is written into an archive, removed from it, and made durable.

What an archive holds, and where, is in `pipeline.storage.archive`.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchiveError, UnreadableError
from pipeline.geometry import Rect, cuts
from pipeline.storage.disk import fsync, remove_tree
from pipeline.storage.item_folders import is_claimed, is_unfinished, item_folders
from pipeline.storage.item_paths import item_of, item_path, name_of, outer_items
from pipeline.storage.large_arrays import in_memory
from pipeline.storage.pixel_codecs import compression
from pipeline.storage.zarr_metadata import (
    LEVEL,
    METADATA,
    PROVENANCE_KEY,
    describe,
    read_metadata,
)
from pipeline.storage.zarr_stores import alone_below

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import zarr
    from numpy.typing import NDArray

    from pipeline.storage.image import Layout
    from pipeline.storage.store import Place


@contextmanager
def new_item(
    archive: zarr.Group, root: Place, item: str, provenance: Mapping[str, Any]
) -> Iterator[zarr.Group]:
    """Yield the group of a new item for its array, in place of what was there.

    On a clean exit it has its provenance, and its metadata survives a power cut. Pixels that the
    block writes are to be durable by then.

    Raises:
        ArchiveError: if the item would be inside another one, or another one inside it.
    """
    remove_item(root, item)
    path = item_path(item)
    mend_outer(root, path)
    with alone_below(archive.store, path):
        group = archive.create_group(path)
        yield group
        group.update_attributes({"ome": describe(item), PROVENANCE_KEY: dict(provenance)})
    sync_metadata(root, path)


def new_array(
    group: zarr.Group, shape: tuple[int, int, int], dtype: str, layout: Layout, *, codec: str
) -> zarr.Array[Any]:
    """Make the full-size array of an item, for pixels to come."""
    return group.create_array(
        LEVEL,
        shape=shape,
        dtype=dtype,
        chunks=(shape[0], *layout.chunk_px),
        shards=(shape[0], *layout.shard_px),
        dimension_names=("c", "y", "x"),
        config={"write_empty_chunks": True},
        **compression(codec, axes="cyx", dtype=dtype, channels=shape[0]),
    )


def write_pixels(array: zarr.Array[Any], pixels: NDArray[Any], layout: Layout) -> None:
    """Write a whole image, shard by shard: of a large picture no second copy is made."""
    for rows in cuts(array.shape[1], layout.shard_px[0]):
        for cols in cuts(array.shape[2], layout.shard_px[1]):
            index = Rect(rows, cols).index
            array[index] = in_memory(pixels[index])


def remove_item(root: Place, item: str) -> None:
    """Remove an item and its pixels, if it is there, however damaged it is.

    Raises:
        ArchiveError: if it is not an item but a folder of items.
    """
    path = item_path(item)
    folder = root / path
    if not folder.is_dir():
        if isinstance(folder, Path):  # An object of this name is in nobody's way.
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
