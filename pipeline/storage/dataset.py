"""Datasets: the patches that networks train on, as Zarr stacks.

A dataset is a Zarr v3 group of arrays whose first axis counts the patches: ``hr (n, c, y, x)``, one
``lr_<degradation>`` for each degradation, ``moments (n, c, 2)``, ``identity (n,)`` and
``split (n,)``. A patch is one inner chunk, so that any of them is read alone; a shard holds some
hundred, a **chunk** of the dataset, written whole by one writer. ``manifest/N.json`` says which
patches chunk N is to hold: it is written first, and so is the plan that an interrupted preparation
goes on with.
``identity`` proves which of them the chunk does hold; ``split`` comes last: a row of it is
`NO_PATCH` until its patch is durable.

zarr makes and describes the arrays; tensorstore carries pixels in and out of them, as zarr 3.1
takes half a millisecond for each inner chunk and tensorstore 0.05 (`benchmarks.loader`).

Sources: Zarr v3 core and sharding specifications.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from pipeline.errors import DatasetError
from pipeline.storage.atomic import write_atomic
from pipeline.storage.image import METADATA, fsync, holds_bytes, numbered_files
from pipeline.storage.manifest import NO_PATCH, SPLITS, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

DATASET_KEY = "upres_dataset"
VERSION = 1
HR, LR_PREFIX, SPLIT, MOMENTS, IDENTITY, MANIFEST, ABOUT = (
    "hr",
    "lr_",
    "split",
    "moments",
    "identity",
    "manifest",
    "about",
)
# Training waits for decoding: against level 1, files are a fifth larger and read in two thirds of
# the time. The checksum turns a flipped bit into an error.
_CODEC = ZstdCodec(level=-5, checksum=True)
_CHUNK_BYTES = 2**24
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_CHUNK_PATCHES = 1024
_MOST_WORDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """What the patches of a dataset have in common, and what they were made by."""

    scale: int
    channels: int
    hr_px: tuple[int, int]
    """Rows and columns of an HR patch."""
    degradations: tuple[str, ...]
    """Names of the LR versions of each patch."""
    recipe: Mapping[str, Any]
    fingerprint: str
    """Of everything that decides the patches, beside the pictures."""
    chunk_patches: int = 0
    """How many patches make up a chunk; 0 stands for a power of two, 16 MiB of HR at most."""

    def __post_init__(self) -> None:
        sides = (self.scale, self.channels, *self.hr_px)
        if min(sides) < 1 or any(side % self.scale for side in self.hr_px):
            raise ValueError(
                f"scale {self.scale}, channels {self.channels} and patches of {self.hr_px} px, "
                "expected at least 1 each, and multiples of the scale"
            )
        for name in self.degradations:
            if not _NAME.fullmatch(name):
                raise ValueError(f"a degradation is called {name!r}, expected {_NAME.pattern}")
        if self.chunk_patches < 0:
            raise ValueError(f"chunk_patches is {self.chunk_patches}, expected at least 1")
        if not self.chunk_patches:
            most = _CHUNK_BYTES // (self.channels * self.hr_px[0] * self.hr_px[1])
            chosen = 1 << (max(1, min(most, _CHUNK_PATCHES)).bit_length() - 1)
            object.__setattr__(self, "chunk_patches", chosen)

    @property
    def lr_px(self) -> tuple[int, int]:
        """Return rows and columns of an LR patch."""
        return self.hr_px[0] // self.scale, self.hr_px[1] // self.scale

    @property
    def pixel_arrays(self) -> dict[str, tuple[int, int]]:
        """Return the arrays that hold pixels, and rows and columns of a patch in each."""
        return {HR: self.hr_px, **{LR_PREFIX + name: self.lr_px for name in self.degradations}}


class Dataset:
    """The arrays and manifests of one dataset."""

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path = path
        self.spec = spec

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open the dataset at `path`.

        Raises:
            DatasetError: if there is none, or its description is damaged.
        """
        try:
            attributes = json.loads((path / METADATA).read_bytes())["attributes"]
            values = attributes[DATASET_KEY]
            spec = DatasetSpec(
                scale=int(values["scale"]),
                channels=int(values["channels"]),
                hr_px=(int(values["hr_px"][0]), int(values["hr_px"][1])),
                degradations=tuple(map(str, values["degradations"])),
                recipe=dict(values["recipe"]),
                fingerprint=str(values["fingerprint"]),
                chunk_patches=int(values["chunk_patches"]),
            )
            version = values["version"]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{path} is no dataset ({type(error).__name__}: {error}); prepare one with "
                "`upres prepare SRC DATASET --recipe R`"
            ) from error
        if version != VERSION:
            raise DatasetError(
                f"{path} is a dataset of version {version}, expected {VERSION}; use the "
                "upres that prepared it, or prepare it anew"
            )
        return cls(path, spec)

    @classmethod
    def open_or_create(cls, path: Path, spec: DatasetSpec) -> Dataset:
        """Open the dataset at `path`, or make an empty one where there is none.

        Raises:
            DatasetError: if there is another thing, or a dataset of another spec.
        """
        if is_dataset(path):
            found = cls.open(path)
            _check_same(found, spec)
            if next(numbered_files(path / MANIFEST, ".json"), None) is None:
                # What an interruption while it was made may have left out.
                found._create_arrays()
            found._check_arrays()
            return found
        check_place(path)
        path.mkdir(parents=True, exist_ok=True)
        made = cls(path, spec)
        values = {"version": VERSION, **asdict(spec)}
        zarr.create_group(LocalStore(path), zarr_format=3, attributes={DATASET_KEY: values})
        made._create_arrays()
        return made

    def __len__(self) -> int:
        """Return the number of rows, those without a patch too."""
        return self._shape(SPLIT)[0]

    @property
    def chunks(self) -> int:
        """Return how many chunks the rows make up."""
        return -(-len(self) // self.spec.chunk_patches)

    def grow(self, rows: int) -> None:
        """Make it `rows` long; what their chunks are to hold is in manifests already.

        The last step of planning: manifests beyond the rows count for nothing.
        """
        # `split` comes last, as its length is that of the dataset.
        for name in (*self.spec.pixel_arrays, MOMENTS, IDENTITY, SPLIT):
            array = self._zarr(name)
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))
                fsync(self.path / name / METADATA)
                fsync(self.path / name)

    def manifest(self, chunk: int) -> Manifest:
        """Return what a chunk is to hold.

        Raises:
            DatasetError: if its file is missing or damaged.
        """
        file = self._manifest_file(chunk)
        try:
            return Manifest.from_json(file.read_bytes(), most=self.spec.chunk_patches)
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DatasetError(
                f"{file} is missing or damaged ({type(error).__name__}: {error}), and with it "
                "which patches its chunk holds; prepare the dataset anew in another folder"
            ) from error

    def content(self, chunk: int) -> str:
        """Return a hash of what a chunk is to hold."""
        return hashlib.sha256(self._manifest_file(chunk).read_bytes()).hexdigest()

    def digest(self) -> str:
        """Return a hash of which patches there are, of what, in which order."""
        parts = (self.spec.fingerprint, *map(self.content, range(self.chunks)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def held(self, chunk: int) -> NDArray[np.bool_]:
        """Return which patches of a chunk's manifest are there ``(m,)``, by their identities.

        Raises:
            DatasetError: if what says so is damaged.
        """
        manifest = self.manifest(chunk)
        shards = (self._shard(name, chunk) for name in (*self.spec.pixel_arrays, MOMENTS, IDENTITY))
        if not len(manifest) or not all(map(holds_bytes, shards)):
            return np.zeros(len(manifest), dtype=bool)
        rows = chunk * self.spec.chunk_patches + manifest.places
        return np.asarray(self.read(IDENTITY, rows) == manifest.identities)

    def is_made(self, chunk: int) -> bool:
        """Return whether every patch of a chunk's manifest is there; nothing is read of them."""
        return bool(self.held(chunk).all())

    def is_marked(self, chunk: int) -> bool:
        """Return whether `split` says of a chunk what its manifest says.

        Raises:
            DatasetError: if what it says is damaged.
        """
        if not holds_bytes(self._shard(SPLIT, chunk)):
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
            wanted, found = (len(manifest), self.spec.channels, rows, cols), pixels[name]
            if found.shape != wanted or found.dtype != np.uint8:
                raise DatasetError(
                    f"{name} is {found.dtype} {found.shape}, expected uint8 {wanted}"
                )
        self._mark(chunk, manifest, self._held_or_none(chunk) & which)
        places = manifest.places[which]
        for name in self.spec.pixel_arrays:
            self._write(name, chunk, places, pixels[name][which])
        self._write(MOMENTS, chunk, places, moments(pixels[HR][which]))
        self._write(IDENTITY, chunk, places, manifest.identities[which])
        self._mark(chunk, manifest, which)

    def retain(self, chunk: int) -> None:
        """Let `split` say of a chunk what its manifest says, of the patches that are there."""
        self._mark(chunk, self.manifest(chunk), self.held(chunk))

    def splits(self) -> NDArray[np.uint8]:
        """Return the split of every row ``(n,)``, `NO_PATCH` where there is no patch.

        Raises:
            DatasetError: if it is damaged.
        """
        return self._read_all(SPLIT)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows that hold a patch of `split`, in order.

        Raises:
            DatasetError: if the shard of one of them is missing: Zarr itself would return black.
        """
        rows = np.flatnonzero(self.splits() == SPLITS.index(split)).astype(np.int64)
        for name in self.spec.pixel_arrays:
            self._require(name, rows)
        return rows

    def read(self, name: str, rows: NDArray[np.int64]) -> Pixels:
        """Return the patches ``(m, c, y, x)`` at `rows` of one array, in the order of `rows`.

        Raises:
            DatasetError: if one cannot be read, or its shard is missing: Zarr would return black.
        """
        self._require(name, rows)
        try:
            return np.asarray(self._store(name)[tensorstore.d[0][rows]].read().result())
        except (ValueError, OSError, IndexError) as error:
            raise DatasetError(
                f"{self.path / name} cannot be read ({_first_line(error)}); run `upres prepare` "
                "again with --check"
            ) from error

    def readable(self, chunk: int) -> NDArray[np.bool_]:
        """Return which patches of a chunk's manifest are there and can be read back ``(m,)``."""
        kept = self._held_or_none(chunk)
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
            name: _statistics(sums[splits == number], pixels) for number, name in enumerate(SPLITS)
        }

    def measures(self) -> NDArray[np.int64]:
        """Return `moments` of all rows ``(n, c, 2)``; they say nothing of rows without a patch.

        Raises:
            DatasetError: if one is missing or damaged.
        """
        self._require(MOMENTS, np.flatnonzero(self.splits() != NO_PATCH))
        # An interruption while the arrays grew may have left it longer.
        return self._read_all(MOMENTS)[: len(self)]

    @property
    def about(self) -> dict[str, Any]:
        """Return what `describe` put last."""
        attributes = json.loads((self.path / METADATA).read_bytes())["attributes"]
        return dict(attributes.get("about", {}))

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Put `facts` beside the spec into the description of the dataset."""
        group = zarr.open_group(LocalStore(self.path), mode="r+", zarr_format=3)
        group.attrs.put({**dict(group.attrs), "about": dict(facts)})
        fsync(self.path / METADATA)
        fsync(self.path)

    def put_about(self, name: str, content: bytes) -> Path:
        """Write a file that tells of the dataset, below ``about``; return its path."""
        path = self.path / ABOUT / name
        write_atomic(path, content)
        return path

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifest of every chunk, in order."""
        yield from map(self.manifest, range(self.chunks))

    def _require(self, name: str, rows: NDArray[np.int64]) -> None:
        """Make sure that the shards of `rows` are there."""
        for chunk in np.unique(rows // self.spec.chunk_patches).tolist():
            if not holds_bytes(self._shard(name, chunk)):
                raise DatasetError(
                    f"{self._shard(name, chunk)} is missing; run `upres prepare` again with "
                    f"--check, which makes chunk {chunk} anew"
                )

    def _check_arrays(self) -> None:
        """Make sure that all arrays are there: without one, what the others hold says nothing."""
        wanted: dict[str, tuple[int, ...]] = {
            name: (self.spec.channels, *px) for name, px in self.spec.pixel_arrays.items()
        }
        wanted |= {MOMENTS: (self.spec.channels, 2), IDENTITY: (), SPLIT: ()}
        for name, patch in wanted.items():
            found = self._shape(name)
            if found[1:] != patch or found[0] < len(self):
                raise DatasetError(
                    f"{self.path / name / METADATA} tells of shape {found}, expected "
                    f"{(len(self), *patch)}; restore it, or prepare the dataset in another folder"
                )

    def _shape(self, name: str) -> tuple[int, ...]:
        file = self.path / name / METADATA
        try:
            shape = json.loads(file.read_bytes())["shape"]
            return (int(shape[0]), *map(int, shape[1:]))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{file} is missing or damaged ({type(error).__name__}: {error}); restore it, or "
                "prepare the dataset in another folder"
            ) from error

    def _held_or_none(self, chunk: int) -> NDArray[np.bool_]:
        try:
            return self.held(chunk)
        except DatasetError:
            return np.zeros(len(self.manifest(chunk)), dtype=bool)

    def _can_read(self, name: str, row: int) -> bool:
        try:
            self.read(name, np.array([row]))
        except DatasetError:
            return False
        return True

    def _mark(self, chunk: int, manifest: Manifest, which: NDArray[np.bool_]) -> None:
        """Let `split` tell of `which` patches of a chunk, and of no others."""
        start = chunk * self.spec.chunk_patches
        many = min(self.spec.chunk_patches, len(self) - start)
        rows = np.full(many, NO_PATCH, dtype=np.uint8)
        rows[manifest.places[which]] = manifest.splits[which]
        self._write(SPLIT, chunk, np.arange(many), rows)

    def _create_arrays(self) -> None:
        group = zarr.open_group(LocalStore(self.path), mode="r+", zarr_format=3)
        spec = self.spec
        for name, px in spec.pixel_arrays.items():
            self._create(group, name, (spec.channels, *px), "uint8", ("n", "c", "y", "x"), 0)
        self._create(group, MOMENTS, (spec.channels, 2), "int64", ("n", "c", "moment"), 0)
        self._create(group, IDENTITY, (), "uint64", ("n",), 0)
        self._create(group, SPLIT, (), "uint8", ("n",), NO_PATCH)
        for name in (MANIFEST, ABOUT):
            if not (self.path / name / METADATA).exists():
                group.create_group(name)
        for name in (MANIFEST, ABOUT, ".", ".."):
            fsync(self.path / name)

    def _create(
        self,
        group: zarr.Group,
        name: str,
        patch: tuple[int, ...],
        dtype: str,
        axes: Sequence[str],
        fill_value: int,
    ) -> None:
        if (self.path / name / METADATA).exists():
            return
        many = self.spec.chunk_patches
        sharded = len(patch) == 3
        group.create_array(
            name,
            shape=(0, *patch),
            dtype=dtype,
            chunks=((1 if sharded else many), *patch),
            shards=(many, *patch) if sharded else None,
            compressors=_CODEC,
            fill_value=fill_value,
            dimension_names=tuple(axes),
            # All files of an array in one folder: each folder more is one more to make durable.
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        fsync(self.path / name / METADATA)
        fsync(self.path / name)

    def _write(
        self, name: str, chunk: int, places: NDArray[np.int64], values: NDArray[Any]
    ) -> None:
        """Write one shard anew, in one piece: `values` at `places`, nothing elsewhere."""
        start = chunk * self.spec.chunk_patches
        stop = min(start + self.spec.chunk_patches, len(self))
        shard = self._shard(name, chunk)
        store = self._store(name)[start:stop]
        block = values
        if len(values) < stop - start or not np.array_equal(places, np.arange(stop - start)):
            block = np.zeros(store.shape, dtype=values.dtype)
            block[places] = values
        # What a killed writer left beside it.
        for path in shard.parent.glob(f"{shard.name}.__lock*"):
            path.unlink(missing_ok=True)
        try:
            store.write(block).result()
        except (ValueError, OSError) as error:
            raise OSError(f"{shard} cannot be written ({_first_line(error)})") from error
        fsync(shard)
        fsync(shard.parent)

    def _read_all(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(self._store(name).read().result())
        except (ValueError, OSError) as error:
            raise DatasetError(
                f"{self.path / name} cannot be read ({_first_line(error)}); run `upres prepare` "
                "again with --check"
            ) from error

    def _zarr(self, name: str) -> zarr.Array[Any]:
        return zarr.open_array(LocalStore(self.path / name), mode="r+", zarr_format=3)

    def _store(self, name: str) -> tensorstore.TensorStore:
        stamp = (self.path / name / METADATA).stat()
        return _opened(str(self.path / name), stamp.st_mtime_ns, stamp.st_ino, os.getpid())

    def _shard(self, name: str, chunk: int) -> Path:
        others = {MOMENTS: ".0.0", IDENTITY: "", SPLIT: ""}.get(name, ".0.0.0")
        return self.path / name / f"c.{chunk}{others}"

    def _manifest_file(self, chunk: int) -> Path:
        return self.path / MANIFEST / f"{chunk}.json"


def check_place(path: Path) -> None:
    """Make sure that a dataset is at `path`, or could be made there.

    Raises:
        DatasetError: if another thing is there.
    """
    if path.exists() and not is_dataset(path) and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path} exists and is no dataset; name a new or empty folder")


def is_dataset(path: Path) -> bool:
    """Return whether `path` is a folder that describes itself as a dataset."""
    try:
        found = json.loads((path / METADATA).read_bytes())
        return DATASET_KEY in found["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def moments(pixels: Pixels) -> NDArray[np.int64]:
    """Return, for patches ``(m, c, y, x)``, sums of values and of their squares ``(m, c, 2)``.

    They are exact, so that statistics do not depend on the order in which they are added up.
    """
    found = np.empty((*pixels.shape[:2], 2), dtype=np.int64)
    for patch, sums in zip(pixels.reshape(*pixels.shape[:2], -1), found, strict=True):
        # Sums of integers below 2**53 are exact in floats, and BLAS adds these the fastest.
        wide = patch.astype(np.float64)
        for channel, values in enumerate(wide):
            sums[channel] = int(values.sum()), int(values @ values)
    return found


def _statistics(sums: NDArray[np.int64], pixels: int) -> dict[str, Any]:
    patches = len(sums)
    if not patches:
        return {"patches": 0, "mean": None, "std": None}
    count = patches * pixels
    # Python's integers: squares of a million patches are beyond what a float adds exactly.
    totals = [[int(v) for v in channel] for channel in sums.sum(axis=0)]
    means = [total / count for total, _ in totals]
    variances = [(squares * count - total * total) / count**2 for total, squares in totals]
    return {
        "patches": patches,
        "mean": [round(mean / 255, 6) for mean in means],
        "std": [round(math.sqrt(variance) / 255, 6) for variance in variances],
    }


@lru_cache(maxsize=32)
def _opened(folder: str, _mtime_ns: int, _inode: int, _pid: int) -> tensorstore.TensorStore:
    """Open an array; another time or inode of its metadata means that it grew."""
    spec = {
        "driver": "zarr3",
        # It takes no path with ".." in it.
        "kvstore": {"driver": "file", "path": f"{os.path.realpath(folder)}/"},
        # A black patch is written too: then a shard's existence is proof of its patches.
        "store_data_equal_to_fill_value": True,
        # What is written is made durable by the writer, with the folders that it lies in.
        "context": {"file_io_sync": False},
    }
    return tensorstore.open(spec).result()


def _check_same(found: Dataset, spec: DatasetSpec) -> None:
    """Make sure that a dataset was made by the recipe that is wanted now."""
    # As JSON has it, in which a tuple is a list.
    if json.loads(json.dumps(asdict(found.spec))) == json.loads(json.dumps(asdict(spec))):
        return
    before, now = dict(found.spec.recipe), dict(spec.recipe)
    differs = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    told = ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differs)
    raise DatasetError(
        f"{found.path} was prepared by another recipe ({told or 'of another upres'}); use the same "
        "values, or name another folder"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    # tensorstore goes on with the spec of what it opened.
    if not lines:
        return type(error).__name__
    words = lines[0].split(" [")[0]
    # TensorStore names the file, perhaps twice, and the cause last.
    return words if len(words) <= _MOST_WORDS else f"{words[:60]} ... {words[65 - _MOST_WORDS :]}"
