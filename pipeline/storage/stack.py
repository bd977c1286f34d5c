"""Stacks: many small images of one size, or in boxes of one size, in one array ``(n, c, y, x)``.

An image of its own takes three files; a stack takes two for each chunk of its images: one with
their pixels, and one (`members/N.json`) that says which images these are, with their provenance.
A chunk is written whole by one writer, the members last: what was interrupted has none, and is
written again. An image that changes leaves a hole in its chunk and goes into another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError, StoreError, UnreadableError
from pipeline.storage.chunk_members import (
    MEMBERS,
    SIZE,
    Chunk,
    members_file,
    members_files,
    mend_chunk,
    read_chunk,
    remove_whatever,
    write_chunk,
)
from pipeline.storage.disk import (
    fsync,
    holds_bytes,
    make_folders,
    remove_partials_of,
    remove_tree,
)
from pipeline.storage.pixel_codecs import compression
from pipeline.storage.stack_kind import Kind, stack_folder
from pipeline.storage.stacked_image import StackedImage, shard_length
from pipeline.storage.zarr_metadata import (
    CHECK_DISK,
    LEVEL,
    METADATA,
    describe,
    open_array,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray
    from zarr.storage import StorePath

    from pipeline.storage.store import Place


class Stack:
    """One array of images of one kind, chunk by chunk."""

    def __init__(self, stack: str, folder: Place, array: zarr.Array[Any]) -> None:
        self.id = stack
        self.array = array
        self._folder = folder

    @classmethod
    def open(cls, place: StorePath, root: Place, stack: str) -> Stack:
        """Open a stack of the archive folder `root`, which is `place` to Zarr.

        Raises:
            ArchiveError: if it is not there, or damaged.
        """
        name = stack_folder(stack)
        folder = root / name
        try:
            array = open_array(place / name / LEVEL, folder / LEVEL, axes="ncyx")
        except UnreadableError as error:
            raise UnreadableError(f"{folder}: the stack {error}; {CHECK_DISK}") from error
        except ArchiveError as error:
            raise ArchiveError(
                f"{folder}: the stack {error}; delete its folder and ingest again"
            ) from error
        return cls(stack, folder, array)

    @classmethod
    def create(
        cls,
        group: zarr.Group,
        root: Place,
        stack: str,
        kind: Kind,
        *,
        chunk_members: int,
        chunks: int,
        codec: str,
    ) -> Stack:
        """Make a stack, deleting what was there."""
        name = stack_folder(stack)
        folder = root / name
        if folder.exists():
            remove_tree(folder)
        make_folders(folder / MEMBERS)
        made = group.create_group(name, attributes={"ome": describe(name, axes="ncyx")})
        size = (kind.channels, kind.height, kind.width)
        array = made.create_array(
            LEVEL,
            shape=(chunks * chunk_members, *size),
            dtype=kind.dtype,
            chunks=(1, *size),
            shards=(chunk_members, *size),
            dimension_names=("n", "c", "y", "x"),
            config={"write_empty_chunks": True},
            **compression(codec, axes="ncyx", dtype=kind.dtype, channels=kind.channels),
        )
        for path in (folder / LEVEL / METADATA, folder / LEVEL, folder / METADATA, folder):
            fsync(path)
        return cls(stack, folder, array)

    @property
    def kind(self) -> Kind:
        """Return what the images have in common."""
        _, channels, height, width = self.array.shape
        return Kind(channels, height, width, str(self.array.dtype), Kind.of(self.id).mixed)

    @property
    def chunk_members(self) -> int:
        """Return how many images a chunk has room for."""
        return shard_length(self.array)

    @property
    def chunks(self) -> int:
        """Return how many chunks there is room for."""
        return -(-int(self.array.shape[0]) // self.chunk_members)

    def grow(self, chunks: int) -> None:
        """Make room for as many chunks, if there is less."""
        if chunks > self.chunks:
            self.array.resize((chunks * self.chunk_members, *self.array.shape[1:]))
            fsync(self._folder / LEVEL / METADATA)
            fsync(self._folder / LEVEL)

    def chunk(self, number: int) -> Chunk | None:
        """Return what a chunk holds, None where it was not (wholly) written.

        Raises:
            ArchiveError: if the file that says so is damaged.
        """
        return read_chunk(self._members_file(number), mixed=self.kind.mixed)

    def has_pixels(self, number: int) -> bool:
        """Return whether the file with the pixels of a chunk is there and not empty."""
        return holds_bytes(self._pixels_file(number))

    def images(self, number: int) -> dict[int, StackedImage]:
        """Open all images of a chunk, by place; none where it was not written.

        Raises:
            ArchiveError: if the file that says what it holds is damaged.
        """
        chunk = self.chunk(number) or Chunk({}, {})
        start = number * self.chunk_members
        sizes = self._sizes(chunk)
        return {
            place: StackedImage(
                m["item"], self.array, {**chunk.facts, **m}, start + place, sizes[place]
            )
            for place, m in chunk.members.items()
        }

    def _sizes(self, chunk: Chunk) -> dict[int, tuple[int, int]]:
        """Return (height, width) of the images of a chunk, by place."""
        kind = self.kind
        return {
            place: chunk.size_of(place) if kind.mixed else (kind.height, kind.width)
            for place in chunk.members
        }

    def held_images(self, number: int, places: Sequence[int]) -> dict[int, StackedImage]:
        """Open the images at `places` of a chunk with their pixels, which are read at once.

        Raises:
            ArchiveError: if any are missing or damaged.
        """
        pixels, images = self.read(number, places), self.images(number)
        return {
            place: replace(images[place], held=held)
            for place, held in zip(places, pixels, strict=True)
        }

    def is_whole(self, number: int) -> bool:
        """Return whether every image of a chunk was written and can be read back."""
        try:
            chunk = self.chunk(number)
            if chunk is None:
                return False
            self.read(number, sorted(chunk.members))
        except ArchiveError:
            return False
        return True

    def read(self, number: int, places: Sequence[int]) -> list[NDArray[Any]]:
        """Return the pixels ``(c, y, x)`` of each of the images at `places` of a chunk.

        Raises:
            ArchiveError: if they are missing or damaged.
        """
        sizes = self._sizes(self.chunk(number) or Chunk({}, {}))
        missing = [place for place in places if place not in sizes]
        if missing:
            raise ArchiveError(f"{self._folder}: chunk {number} holds no image at {missing[0]}")
        start, file = number * self.chunk_members, self._pixels_file(number)
        first, last = min(places, default=0), max(places, default=0)
        try:
            if not holds_bytes(file):
                raise FileNotFoundError(file)
            block = np.asarray(self.array[start + first : start + last + 1])
        except StoreError as error:
            raise UnreadableError(
                f"{self.id} chunk {number} cannot be read ({error}); {CHECK_DISK}"
            ) from error
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise ArchiveError(
                f"{self.id} chunk {number} cannot be read ({type(error).__name__}: {error}); "
                f"{mend_chunk(self._members_file(number))}"
            ) from error
        return [block[p - first, :, : sizes[p][0], : sizes[p][1]] for p in places]

    def write(
        self,
        number: int,
        pixels: Sequence[NDArray[Any]],
        members: Mapping[int, Mapping[str, Any]],
        facts: Mapping[str, Any],
    ) -> None:
        """Write a chunk: images ``(c, y, x)`` in the order of the places of `members`.

        When this returns, the chunk survives a power cut.

        Raises:
            ArchiveError: if the pixels do not fit.
        """
        kind = self.kind
        block = np.zeros(
            (self.chunk_members, kind.channels, kind.height, kind.width), dtype=kind.dtype
        )
        said = {}
        for place, image in zip(sorted(members), pixels, strict=True):
            channels, height, width = image.shape
            if not kind.takes(Kind(channels, height, width, str(image.dtype))):
                raise ArchiveError(
                    f"{self.id}: pixels are {image.dtype} {image.shape}, expected {kind.dtype} of "
                    f"{'at most ' * kind.mixed}{block.shape[1:]}"
                )
            block[place, :, :height, :width] = image
            said[place] = {**members[place], **({SIZE: (height, width)} if kind.mixed else {})}
        self.remove(number)
        file = self._pixels_file(number)
        start = number * self.chunk_members
        self.array[start : start + self.chunk_members] = block
        for path in (file, *file.parents[:5]):
            fsync(path)
        write_chunk(self._members_file(number), Chunk(facts, said))

    def remove(self, number: int) -> None:
        """Remove a chunk, its members first, whatever stands in its place."""
        file = self._pixels_file(number)
        for path in (self._members_file(number), file):
            remove_whatever(path)
        remove_partials_of(file)

    def drop(self, number: int, places: Collection[int]) -> None:
        """Leave holes at `places` of a chunk: these images are not of the archive any more."""
        chunk = self.chunk(number)
        if chunk is not None and places:
            self.retain(number, chunk.members.keys() - set(places), {})

    def empty(self, number: int, places: Collection[int]) -> None:
        """Leave holes at `places` of a chunk; one without images has no pixels, but its number."""
        self.drop(number, places)
        chunk = self.chunk(number)
        if chunk is not None and not chunk.members:
            remove_whatever(self._pixels_file(number))

    def retain(self, number: int, places: Collection[int], facts: Mapping[str, Any]) -> None:
        """Keep only the images at `places` of a chunk, and have `facts` said of them."""
        chunk = self.chunk(number)
        if chunk is not None:
            kept = {place: m for place, m in chunk.members.items() if place in places}
            write_chunk(self._members_file(number), Chunk({**chunk.facts, **facts}, kept))

    def numbers(self) -> list[int]:
        """Return the numbers of the chunks that were written, sorted."""
        return sorted(number for number, _ in members_files(self._folder))

    def _members_file(self, number: int) -> Place:
        return members_file(self._folder, number)

    def _pixels_file(self, number: int) -> Place:
        return self._folder / LEVEL / "c" / str(number) / "0" / "0" / "0"
