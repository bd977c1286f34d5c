"""Archives: Zarr v3 groups whose items are images of their own, or many in one stack.

An item is complete once its group carries provenance, which is written last: whatever was
interrupted has none, and is written again. Items are found by walking the folders, not by asking
Zarr: it passes over every folder whose metadata is gone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import zarr
from zarr.storage import StorePath

from pipeline.constants import ZSTD
from pipeline.errors import ArchiveError, UnreadableError
from pipeline.storage.archive_group import ARCHIVE_KEY, is_archive, open_group
from pipeline.storage.disk import fsync, grid_of_files, holds_bytes, sync_tree
from pipeline.storage.file_image import FileImage, put_file
from pipeline.storage.image import StoredImage
from pipeline.storage.item_folders import is_claimed, is_item, item_folders
from pipeline.storage.item_opening import open_item
from pipeline.storage.item_paths import item_path, name_of, outer_items
from pipeline.storage.item_writing import (
    mend_outer,
    new_array,
    new_item,
    remove_item,
    write_pixels,
)
from pipeline.storage.stack import Stack
from pipeline.storage.stack_index import Index, Member, chunk_stamp, index_of, locate, stack_ids
from pipeline.storage.stack_kind import STACKS_FOLDER
from pipeline.storage.stamps import seal_of
from pipeline.storage.store import BucketPlace
from pipeline.storage.zarr_metadata import LEVEL, METADATA
from pipeline.storage.zarr_stores import store_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from pipeline.storage.file_image import PictureFile
    from pipeline.storage.image import Layout
    from pipeline.storage.stack_kind import Kind
    from pipeline.storage.stacked_image import StackedImage
    from pipeline.storage.store import Place

CODEC_KEY = "upres_codec"
"""Attribute of an archive's own group: how its new arrays are compressed, by zstd if absent.

Whoever names zstd asks for pixels that every program of Zarr reads.
"""

SOURCE_SHARD_PX = 4096
_OPEN_CHUNKS = 64


class Archive:
    """A Zarr group that holds images by item id."""

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._images = lru_cache(maxsize=_OPEN_CHUNKS)(self._images_of)
        self._held: dict[tuple[str, int, int], StackedImage] = {}

    @classmethod
    def open(cls, path: Place) -> Archive:
        """Open an existing archive.

        Raises:
            ArchiveError: if there is none at `path`, or one that upres did not write.
        """
        return cls(path, open_group(path))

    @classmethod
    def open_or_create(cls, path: Place, *, codec: str | None = None) -> Archive:
        """Open the archive at `path`, or make an empty one where there is none.

        New arrays will be compressed by `codec`, one of `CODECS`; None leaves that as it is, which
        is zstd in a new archive.
        """
        if is_archive(path):
            found = cls.open(path)
            if codec and codec != found._group.attrs.get(CODEC_KEY):
                found._group.update_attributes({CODEC_KEY: codec})
            return found
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ArchiveError(
                f"{path} exists and is not an archive; name an empty folder or one that upres wrote"
            )
        facts = {ARCHIVE_KEY: 1, **({CODEC_KEY: codec} if codec else {})}
        group = zarr.create_group(store_at(path), zarr_format=3, attributes=facts)
        return cls(path, group)

    @property
    def codec(self) -> str:
        """Return how new arrays are compressed."""
        return str(self._group.attrs.get(CODEC_KEY, ZSTD))

    @property
    def takes_files(self) -> bool:
        """Return whether a picture may be stored as its file: unless zstd is named."""
        return self._group.attrs.get(CODEC_KEY) != ZSTD

    def items(self) -> Iterator[str]:
        """Yield the ids of all complete items, sorted."""
        for item, found in self.survey():
            if isinstance(found, StoredImage):
                yield item

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Yield (item, reason) of whatever looks like an item and is not a complete one, sorted.

        That is a folder with a full-size array or a ``zarr.json`` that `image` refuses. A group
        that only holds items is none, not even where its own metadata is gone.
        """
        for item, found in self.survey():
            if isinstance(found, ArchiveError):
                yield item, str(found)

    def survey(self) -> Iterator[tuple[str, StoredImage | ArchiveError]]:
        """Yield each item, sorted by id: opened, or the error that says what is wrong with it.

        ``items()`` and ``damaged()`` are its two halves.
        """
        own = {name_of(path): path for path in item_folders(self.path) if path}
        index = index_of(self.path)
        stacked, broken = index.members, index.broken
        for item in sorted({*own, *stacked, *broken}):
            try:
                if item in stacked and not (item in own and is_claimed(self.path / own[item])):
                    yield item, self._stacked(stacked[item])
                elif item in own:
                    yield item, self._opened(item, own[item])
                else:
                    yield item, broken[item]
            except ArchiveError as error:
                yield item, error

    def image(self, item: str) -> StoredImage:
        """Open one item.

        Raises:
            ArchiveError: if it is not there, is incomplete or damaged, or is no (c, y, x) image.
        """
        path = item_path(item)
        if isinstance(self.path, BucketPlace):
            return self._image_in_bucket(item, path)
        member = locate(self.path, item)
        if member is not None and not is_claimed(self.path / path):
            return self._stacked(member)
        return self._opened(item, path)

    def _image_in_bucket(self, item: str, path: str) -> StoredImage:
        """Open an item of its own, as most are, before requests are spent on the stacks."""
        try:
            return self._opened(item, path)
        except ArchiveError:
            member = locate(self.path, item)
            if member is None or is_claimed(self.path / path):
                raise
            return self._stacked(member)

    def image_at(self, item: str, *, stack: str, chunk: int, place: int) -> StoredImage:
        """Open an item where the ledger says that it is; `stack` is "" for one of its own.

        Raises:
            ArchiveError: as `image`, and if another item is there.
        """
        if not stack:
            return self._opened(item, item_path(item))
        image = self._stacked(Member(stack, chunk, place, ""))
        if image.item != item:
            raise ArchiveError(
                f"{self.path}: at {place} of chunk {chunk} of {stack} is {image.item!r}, "
                f"expected {item!r}; upscale it again"
            )
        return image

    def hold(self, stack: str, chunk: int, places: Sequence[int]) -> None:
        """Read the images at `places` of a chunk at once; `image_at` returns these from then on.

        Raises:
            ArchiveError: if any are missing or damaged.
        """
        images = self.stack(stack).held_images(chunk, places)
        self._held = {(stack, chunk, place): image for place, image in images.items()}

    def _stacked(self, member: Member) -> StackedImage:
        if held := self._held.get((member.stack, member.chunk, member.place)):
            return held
        stamp = chunk_stamp(self.path / STACKS_FOLDER, member)
        image = self._images(member.stack, member.chunk, stamp).get(member.place)
        if image is None:
            raise ArchiveError(
                f"{self.path}: chunk {member.chunk} of {member.stack} holds no image at "
                f"{member.place}; ingest it again"
            )
        return image

    def _images_of(self, stack: str, chunk: int, _stamp: object) -> dict[int, StackedImage]:
        return self.stack(stack).images(chunk)

    def index(self) -> Index:
        """Return what is in stacks, and where."""
        return index_of(self.path)

    def stacks(self) -> list[str]:
        """Return the ids of the sound stacks."""
        return [stack for stack in stack_ids(self.path) if self.has_stack(stack)]

    def has_stack(self, stack: str) -> bool:
        """Return whether there is a sound stack of this id.

        Raises:
            UnreadableError: if the disk, or the store, does not say.
        """
        try:
            self.stack(stack)
        except UnreadableError:
            raise  # Whoever makes one where there is none deletes what is there.
        except ArchiveError:
            return False
        return True

    def stack(self, stack: str) -> Stack:
        """Open a stack by its id.

        Raises:
            ArchiveError: if it is not there, or damaged.
        """
        place = StorePath(self._group.store, STACKS_FOLDER)
        return Stack.open(place, self.path / STACKS_FOLDER, stack)

    def create_stack(self, stack: str, kind: Kind, *, chunk_members: int, chunks: int) -> Stack:
        """Make a stack, deleting what was there, for chunks to come."""
        folder = self.path / STACKS_FOLDER
        mend_outer(self.path, f"{STACKS_FOLDER}/")
        made = self._group.require_group(STACKS_FOLDER)
        found = Stack.create(
            made, folder, stack, kind, chunk_members=chunk_members, chunks=chunks, codec=self.codec
        )
        for path in (folder / METADATA, folder, self.path):
            fsync(path)
        return found

    def _opened(self, item: str, path: str) -> StoredImage:
        return open_item(self._group.store, self.path, item, path)

    def shards_of(self, item: str) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of each shard of an item outside stacks whose file is not empty.

        Nothing is opened: shards that are there may be damaged.
        """
        return grid_of_files(self.path / f"{item_path(item)}/{LEVEL}/c/0")

    def has_first_shard(self, item: str) -> bool:
        """Return whether ``(0, 0) in shards_of(item)``."""
        return holds_bytes(self.path / f"{item_path(item)}/{LEVEL}/c/0/0/0")

    def seal(self, item: str) -> str:
        """Return what changes whenever the metadata of an item outside stacks does.

        "" where there is none, or that cannot be known without reading.
        """
        return seal_of(self.path, item_path(item))

    def provenance(self, item: str) -> Mapping[str, Any] | None:
        """Return the provenance of a complete item, None where there is no such item.

        Raises:
            UnreadableError: if the disk does not say.
        """
        try:
            return self.image(item).provenance
        except UnreadableError:
            raise
        except ArchiveError:
            return None

    def create(
        self,
        item: str,
        *,
        shape: tuple[int, int, int],
        dtype: str,
        layout: Layout,
        provenance: Mapping[str, Any],
        pixels: NDArray[Any] | None = None,
    ) -> StoredImage:
        """Make an item, deleting what was there, with `pixels` or for tiles to come.

        When this returns, the item and its metadata survive a power cut. Of two writers that make
        an item and another one inside it at once, neither sees the other: see `clashing`.

        Raises:
            ArchiveError: if the item would be inside another one, or another one inside it.
        """
        with self._new_item(item, provenance) as group:
            array = new_array(group, shape, dtype, layout, codec=self.codec)
            if pixels is not None:
                write_pixels(array, pixels, layout)
                sync_tree(self.path / item_path(item))
        return StoredImage(item, array, provenance)

    def create_of_file(
        self, item: str, file: PictureFile, *, provenance: Mapping[str, Any]
    ) -> StoredImage:
        """Make an item whose pixels are stored as the file of its picture, as `create` does.

        The ``sha256`` of the provenance must be that of the file.

        Raises:
            ArchiveError: as `create`.
        """
        with self._new_item(item, provenance) as group:
            array = put_file(group, file)
            sync_tree(self.path / item_path(item))
        return FileImage(item, array, provenance)

    def _new_item(
        self, item: str, provenance: Mapping[str, Any]
    ) -> AbstractContextManager[zarr.Group]:
        for outer in outer_items(item):
            if self.provenance(outer) is not None:
                raise ArchiveError(
                    f"{self.path}: {item!r} would be inside the item {outer!r}; rename one of them"
                )
        return new_item(self._group, self.path, item, provenance)

    def delete(self, item: str) -> None:
        """Remove an item and its pixels, if it is there, however damaged it is.

        Raises:
            ArchiveError: if it is not an item but a folder of items.
        """
        remove_item(self.path, item)

    def delete_own(self, item: str) -> None:
        """Remove an item that is, or was to become, an image of its own; leave stacks alone."""
        folder = self.path / item_path(item)
        if folder.is_dir() and is_item(folder):
            self.delete(item)
