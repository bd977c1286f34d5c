"""One dataset: what its manifests say, and which of that its arrays hold."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DatasetError, StoreError
from pipeline.storage.atomic import write_atomic
from pipeline.storage.dataset.arrays import PatchArrays
from pipeline.storage.dataset.description import (
    check_place,
    check_same,
    is_dataset,
    make_groups,
    read_about,
    read_spec,
    write_about,
    write_spec,
)
from pipeline.storage.dataset.patch_moments import moments, statistics_of
from pipeline.storage.dataset.spec import HR, IDENTITY, MOMENTS, SPLIT
from pipeline.storage.disk import fsync, make_folders, numbered_files
from pipeline.storage.manifest import NO_PATCH, SPLITS, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.storage.dataset.spec import DatasetSpec
    from pipeline.storage.store import Place

    Pixels = NDArray[np.uint8]

MANIFEST, ABOUT = "manifest", "about"


class Dataset:
    """The arrays and manifests of one dataset."""

    def __init__(self, path: Place, spec: DatasetSpec, *, keep: int = 0) -> None:
        self.path = path
        self.spec = spec
        self._arrays = PatchArrays(path, spec, keep=keep)

    @classmethod
    def open(cls, path: Place) -> Dataset:
        """Open the dataset at `path`.

        Raises:
            DatasetError: if there is none, or its description is damaged.
        """
        return cls(path, read_spec(path))

    @classmethod
    def open_or_create(cls, path: Place, spec: DatasetSpec) -> Dataset:
        """Open the dataset at `path`, or make an empty one where there is none.

        Raises:
            DatasetError: if there is another thing, or a dataset of another spec.
        """
        if is_dataset(path):
            found = cls.open(path)
            check_same(path, found.spec, spec)
            if next(numbered_files(path / MANIFEST, ".json"), None) is None:
                # What an interruption while it was made may have left out.
                found._create()
            found._arrays.check()
            return found
        check_place(path)
        make_folders(path)
        write_spec(path, spec)
        made = cls(path, spec)
        made._create()
        return made

    def keeping(self, shards: int) -> Dataset:
        """Return the same to be read: from a bucket, its last so many shards stay in memory.

        What somebody writes meanwhile may not be seen.
        """
        return Dataset(self.path, self.spec, keep=shards)

    def fetch_ahead(self, names: Sequence[str], rows: NDArray[np.int64]) -> None:
        """Begin to fetch from a bucket what will be read: shards of arrays that `rows` are in."""
        self._arrays.fetch_ahead(names, rows)

    def __len__(self) -> int:
        """Return the number of rows, those without a patch too."""
        return len(self._arrays)

    @property
    def chunks(self) -> int:
        """Return how many chunks the rows make up."""
        return -(-len(self) // self.spec.chunk_patches)

    def grow(self, rows: int) -> None:
        """Make it `rows` long; what their chunks are to hold is in manifests already.

        The last step of planning: manifests beyond the rows count for nothing.
        """
        self._arrays.grow(rows)

    def manifest(self, chunk: int) -> Manifest:
        """Return what a chunk is to hold.

        Raises:
            DatasetError: if its file is missing or damaged.
        """
        file = self._manifest_file(chunk)
        try:
            return Manifest.from_json(file.read_bytes(), most=self.spec.chunk_patches)
        except StoreError:
            raise  # Nobody knows whether it is damaged.
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DatasetError(
                f"{file} is missing or damaged ({type(error).__name__}: {error}), and with it "
                "which patches its chunk holds; prepare the dataset again in another folder"
            ) from error

    def content(self, chunk: int) -> str:
        """Return a hash of what a chunk is to hold."""
        return hashlib.sha256(self._manifest_file(chunk).read_bytes()).hexdigest()

    def digest(self) -> str:
        """Return a hash of which patches there are, of what, in which order."""
        parts = (self.spec.fingerprint, *map(self.content, range(self.chunks)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def present(self, chunk: int) -> NDArray[np.bool_]:
        """Return which patches of a chunk's manifest are there ``(m,)``, by their identities.

        Raises:
            DatasetError: if what says so is damaged.
        """
        manifest = self.manifest(chunk)
        names = (*self.spec.pixel_arrays, MOMENTS, IDENTITY)
        if not len(manifest) or not all(self._arrays.holds(name, chunk) for name in names):
            return np.zeros(len(manifest), dtype=bool)
        rows = chunk * self.spec.chunk_patches + manifest.places
        return np.asarray(self.read(IDENTITY, rows) == manifest.identities)

    def is_made(self, chunk: int) -> bool:
        """Return whether every patch of a chunk's manifest is there; nothing is read of them."""
        return bool(self.present(chunk).all())

    def is_marked(self, chunk: int) -> bool:
        """Return whether `split` says of a chunk what its manifest says.

        Raises:
            DatasetError: if what it says is damaged.
        """
        if not self._arrays.holds(SPLIT, chunk):
            return False
        manifest, start = self.manifest(chunk), chunk * self.spec.chunk_patches
        marks = np.full(min(self.spec.chunk_patches, len(self) - start), NO_PATCH, dtype=np.uint8)
        marks[manifest.places] = manifest.splits
        return np.array_equal(self.read(SPLIT, start + np.arange(len(marks))), marks)

    def put_manifest(self, chunk: int, manifest: Manifest) -> None:
        """Say what a chunk is to hold; durable when this returns."""
        write_atomic(self._manifest_file(chunk), manifest.to_json())

    def drop_manifests(self) -> None:
        """Remove the manifests of a plan that was interrupted: those beyond the rows."""
        for number, path in numbered_files(self.path / MANIFEST, ".json"):
            if number >= self.chunks:
                path.unlink()

    def write(
        self,
        chunk: int,
        pixels: Mapping[str, Pixels],
        present: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write the patches of a chunk, in the order of its manifest; durable when this returns.

        `pixels` holds one array ``(m, c, y, x)`` for each of `DatasetSpec.pixel_arrays`; `present`
        says which of them are to be written, all if it is None. Shards are replaced in one piece,
        so that what was there and is written again is never away.

        Raises:
            DatasetError: if the arrays do not fit.
        """
        manifest = self.manifest(chunk)
        which = np.ones(len(manifest), dtype=bool) if present is None else present
        for name, (rows, cols) in self.spec.pixel_arrays.items():
            expected, given = (len(manifest), self.spec.channels, rows, cols), pixels[name]
            if given.shape != expected or given.dtype != np.uint8:
                raise DatasetError(
                    f"{name} is {given.dtype} {given.shape}, expected uint8 {expected}"
                )
        self._mark(chunk, manifest, self._present_or_none(chunk) & which)
        places = manifest.places[which]
        for name in self.spec.pixel_arrays:
            self._arrays.write(name, chunk, places, pixels[name][which])
        self._arrays.write(MOMENTS, chunk, places, moments(pixels[HR][which]))
        self._arrays.write(IDENTITY, chunk, places, manifest.identities[which])
        self._mark(chunk, manifest, which)

    def retain(self, chunk: int) -> None:
        """Let `split` say of a chunk what its manifest says, of the patches that are there."""
        self._mark(chunk, self.manifest(chunk), self.present(chunk))

    def splits(self) -> NDArray[np.uint8]:
        """Return the split of every row ``(n,)``, `NO_PATCH` where there is no patch.

        Raises:
            DatasetError: if it is damaged.
        """
        return self._arrays.read_all(SPLIT)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows that hold a patch of `split`, in order.

        Raises:
            DatasetError: if the shard of one of them is missing: Zarr itself would return black.
        """
        rows = np.flatnonzero(self.splits() == SPLITS.index(split)).astype(np.int64)
        for name in self.spec.pixel_arrays:
            self._arrays.require(name, rows)
        return rows

    def read(self, name: str, rows: NDArray[np.int64]) -> Pixels:
        """Return the patches ``(m, c, y, x)`` at `rows` of one array, in the order of `rows`.

        Raises:
            DatasetError: if one cannot be read, or its shard is missing: Zarr would return black.
        """
        return self._arrays.read(name, rows)

    def readable(self, chunk: int) -> NDArray[np.bool_]:
        """Return which patches of a chunk's manifest are there and can be read back ``(m,)``."""
        kept = self._present_or_none(chunk)
        rows = chunk * self.spec.chunk_patches + self.manifest(chunk).places
        for name in (*self.spec.pixel_arrays, MOMENTS):
            try:
                self.read(name, rows[kept])
            except DatasetError:
                kept &= [self._can_read(name, row) for row in rows.tolist()]
        return kept

    def is_whole(self, chunk: int) -> bool:
        """Return whether every patch of a chunk can be read back, and is marked as it should."""
        try:
            return bool(self.readable(chunk).all()) and self.is_marked(chunk)
        except DatasetError:
            return False

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return, for each split, how many patches, and mean and std of each HR channel in 0..1."""
        splits, sums = self.splits(), self.measures()
        pixels = self.spec.hr_px[0] * self.spec.hr_px[1]
        return {
            name: statistics_of(sums[splits == number], pixels)
            for number, name in enumerate(SPLITS)
        }

    def measures(self) -> NDArray[np.int64]:
        """Return `moments` of all rows ``(n, c, 2)``; they say nothing of rows without a patch.

        Raises:
            DatasetError: if one is missing or damaged.
        """
        self._arrays.require(MOMENTS, np.flatnonzero(self.splits() != NO_PATCH))
        # An interruption while the arrays grew may have left it longer.
        return self._arrays.read_all(MOMENTS)[: len(self)]

    @property
    def about(self) -> dict[str, Any]:
        """Return what `describe` put last."""
        return read_about(self.path)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Put `facts` beside the spec into the description of the dataset."""
        write_about(self.path, facts)

    def put_about(self, name: str, content: bytes) -> Place:
        """Write a file about the dataset, below ``about``; return its path."""
        path = self.path / ABOUT / name
        write_atomic(path, content)
        return path

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifest of every chunk, in order."""
        yield from map(self.manifest, range(self.chunks))

    def _create(self) -> None:
        self._arrays.create()
        make_groups(self.path, (MANIFEST, ABOUT))
        for name in (MANIFEST, ABOUT, ".", ".."):
            fsync(self.path / name)

    def _present_or_none(self, chunk: int) -> NDArray[np.bool_]:
        try:
            return self.present(chunk)
        except DatasetError:
            return np.zeros(len(self.manifest(chunk)), dtype=bool)

    def _can_read(self, name: str, row: int) -> bool:
        try:
            self.read(name, np.array([row]))
        except DatasetError:
            return False
        return True

    def _mark(self, chunk: int, manifest: Manifest, which: NDArray[np.bool_]) -> None:
        """Mark in `split` these patches of a chunk, and no others."""
        start = chunk * self.spec.chunk_patches
        many = min(self.spec.chunk_patches, len(self) - start)
        rows = np.full(many, NO_PATCH, dtype=np.uint8)
        rows[manifest.places[which]] = manifest.splits[which]
        self._arrays.write(SPLIT, chunk, np.arange(many), rows)

    def _manifest_file(self, chunk: int) -> Place:
        return self.path / MANIFEST / f"{chunk}.json"
