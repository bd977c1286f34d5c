"""How the folder of an item is opened: its metadata, and the kind of image that its array is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarr.storage import StorePath

from pipeline.errors import ArchiveError, UnreadableError
from pipeline.storage.file_image import FileImage
from pipeline.storage.image import StoredImage
from pipeline.storage.item_paths import item_path
from pipeline.storage.pixel_codecs import Jpeg
from pipeline.storage.zarr_metadata import CHECK_DISK, LEVEL, open_array, read_provenance

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from pipeline.storage.store import Place


def open_item(store: Store, root: Place, item: str, path: str) -> StoredImage:
    """Open the item whose folder is `path` in the archive at `root`, whose store is `store`.

    Raises:
        ArchiveError: if it is not there, is incomplete or damaged, or is no (c, y, x) image.
    """
    folder = root / path
    try:
        provenance = read_provenance(folder)
        array = open_array(StorePath(store, f"{path}/{LEVEL}"), folder / LEVEL)
    except UnreadableError as error:
        raise UnreadableError(f"{root}: item {item!r} {error}; {CHECK_DISK}") from error
    except ArchiveError as error:
        if not folder.is_dir():
            raise ArchiveError(f"{root} holds no item {item!r}; ingest it again") from None
        raise ArchiveError(
            f"{root}: item {item!r} {error}; ingest it again, or delete its folder"
        ) from error
    if item_path(item) != path:
        raise ArchiveError(
            f"{folder} is not named as upres names the folder of an item, expected "
            f"{item_path(item)!r}; ingest it again, or delete the folder"
        )
    kind = FileImage if isinstance(array.serializer, Jpeg) else StoredImage
    return kind(item, array, provenance)
