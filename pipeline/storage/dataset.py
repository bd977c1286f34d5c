"""Datasets: the patches that networks train on, as Zarr stacks.

A dataset is a Zarr v3 group of arrays whose first axis counts the patches: ``hr (n, c, y, x)``, one
``lr_<degradation>`` for each degradation, ``split (n,)`` and ``moments (n, c, 2)``. A patch is one
inner chunk, so that any of them is read alone; a shard holds some hundred, a **chunk** of the
dataset, written whole by one writer. ``manifest/N.json`` says which patches chunk N is to hold: it
is written first, and so is the plan that an interrupted preparation goes on with. ``split`` comes
last: a row of it is `NO_PATCH` until its patch is durable.

zarr makes and describes the arrays; tensorstore carries pixels in and out of them, as zarr 3.1
takes half a millisecond for each inner chunk and tensorstore 0.05 (`benchmarks.loader`).

Sources: Zarr v3 core and sharding specifications.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, field
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

DATASET_KEY = "upres_dataset"
VERSION = 1
HR, LR_PREFIX, SPLIT, MOMENTS, MANIFEST, ABOUT = (
    "hr",
    "lr_",
    "split",
    "moments",
    "manifest",
    "about",
)
SPLITS = ("train", "validation", "test")
"""Names of the splits; the number of a split in `split` is its place here."""

NO_PATCH = 255
"""What `split` says of a row that holds no patch: not yet made, or left by a changed picture."""

# Training waits for decoding: against level 1, files are a fifth larger and read in two thirds of
# the time. The checksum turns a flipped bit into an error.
_CODEC = ZstdCodec(level=-5, checksum=True)
_CHUNK_BYTES = 2**24
_CHUNK_PATCHES = 1024


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A picture that patches were cut from."""

    item: str
    sha256: str
    """Of the file, or of the HR and LR files together where they came as pairs."""
    split: str
    """One of `SPLITS`, or "" for a picture that all patches of are left out."""
    licence: str = ""
    copyright: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many of its patches were left out, by reason; said once, with its first patch."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which patches one chunk holds.

    `places` (m,) are their rows, counted from the chunk's first; `pictures` (m,) index `origins`;
    `corners` (m, 2) are top and left of each patch in its picture, in pixels; `seeds` (m,) are what
    its degradations draw from; `hashes` (m,) are their perceptual hashes, or empty.
    """

    origins: tuple[Origin, ...]
    places: NDArray[np.int64]
    pictures: NDArray[np.int64]
    corners: NDArray[np.int64]
    seeds: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def splits(self) -> NDArray[np.uint8]:
        """Return the number of the split of each patch."""
        known = {"": NO_PATCH, **{name: number for number, name in enumerate(SPLITS)}}
        numbers = np.array([known[origin.split] for origin in self.origins], dtype=np.uint8)
        return numbers[self.pictures]

    def without(self, items: frozenset[str]) -> Manifest:
        """Return the same without the patches of `items`; the others keep their places."""
        names = [origin.item for origin in self.origins]
        kept = np.array([names[p] not in items for p in self.pictures], dtype=bool)
        left = [n for n, name in enumerate(names) if name not in items]
        renumbered = np.full(len(names), -1, dtype=np.int64)
        renumbered[left] = np.arange(len(left))
        return Manifest(
            tuple(self.origins[n] for n in left),
            self.places[kept],
            renumbered[self.pictures[kept]],
            self.corners[kept],
            self.seeds[kept],
            self.hashes[kept] if len(self.hashes) else self.hashes,
        )

    def to_json(self) -> bytes:
        """Return it as the bytes of a JSON file, equal bytes for equal manifests."""
        content = {
            "origins": [asdict(origin) for origin in self.origins],
            "places": self.places.tolist(),
            "pictures": self.pictures.tolist(),
            "corners": self.corners.tolist(),
            "seeds": self.seeds.tolist(),
            "hashes": [f"{value:016x}" for value in self.hashes.tolist()],
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, *, most: int) -> Manifest:
        """Read what `to_json` gave for a chunk of `most` rows.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: if the bytes are anything else.
        """
        content = json.loads(data)
        found = cls(
            tuple(Origin(**origin) for origin in content["origins"]),
            np.array(content["places"], dtype=np.int64),
            np.array(content["pictures"], dtype=np.int64),
            np.array(content["corners"], dtype=np.int64).reshape(-1, 2),
            np.array(content["seeds"], dtype=np.int64),
            np.array([int(text, 16) for text in content["hashes"]], dtype=np.uint64),
        )
        lengths = {len(found.places), len(found.pictures), len(found.corners), len(found.seeds)}
        if len(lengths) > 1 or len(found.hashes) not in (0, len(found.places)):
            raise ValueError(f"columns have lengths {sorted(lengths)}, expected one")
        if any(origin.split not in ("", *SPLITS) for origin in found.origins):
            raise ValueError(f"a split is none of {', '.join(SPLITS)}")
        if not np.isin(found.pictures, np.arange(len(found.origins))).all():
            raise ValueError("a patch is of a picture that is not listed")
        if len(np.intersect1d(found.places, np.arange(most))) < len(found):
            raise ValueError(f"places are not {len(found)} different ones of 0 to {most - 1}")
        return found


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
            # What an interruption while it was made may have left out.
            found._create_arrays()
            return found
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DatasetError(f"{path} exists and is no dataset; name a new or empty folder")
        path.mkdir(parents=True, exist_ok=True)
        made = cls(path, spec)
        values = {"version": VERSION, **asdict(spec)}
        zarr.create_group(LocalStore(path), zarr_format=3, attributes={DATASET_KEY: values})
        made._create_arrays()
        return made

    def __len__(self) -> int:
        """Return the number of rows, those without a patch too."""
        file = self.path / SPLIT / METADATA
        try:
            return int(json.loads(file.read_bytes())["shape"][0])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{file} is missing or damaged ({type(error).__name__}: {error}); prepare the "
                "dataset anew in another folder"
            ) from error

    @property
    def chunks(self) -> int:
        """Return how many chunks the rows make up."""
        return -(-len(self) // self.spec.chunk_patches)

    def grow(self, rows: int) -> None:
        """Make it `rows` long; what their chunks are to hold is in manifests already.

        The last step of planning: manifests beyond the rows count for nothing.
        """
        # `split` comes last, as its length is that of the dataset.
        for name in (*self.spec.pixel_arrays, MOMENTS, SPLIT):
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

    def is_marked(self, chunk: int) -> bool:
        """Return whether `split` says of a chunk what its manifest says: it was made.

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

    def write(self, chunk: int, pixels: Mapping[str, Pixels]) -> None:
        """Write all patches of a chunk, in the order of its manifest; durable when this returns.

        `pixels` holds one array ``(m, c, y, x)`` for each of `DatasetSpec.pixel_arrays`.

        Raises:
            DatasetError: if the arrays do not fit.
        """
        manifest = self.manifest(chunk)
        self._write_split(chunk, np.array([], dtype=np.int64), np.array([], dtype=np.uint8))
        for name, (rows, cols) in self.spec.pixel_arrays.items():
            wanted = (len(manifest), self.spec.channels, rows, cols)
            found = pixels[name]
            if found.shape != wanted or found.dtype != np.uint8:
                raise DatasetError(
                    f"{name} is {found.dtype} {found.shape}, expected uint8 {wanted}"
                )
            self._write(name, chunk, manifest.places, found)
        self._write(MOMENTS, chunk, manifest.places, moments(pixels[HR]))
        self._write_split(chunk, manifest.places, manifest.splits)

    def retain(self, chunk: int) -> None:
        """Let a chunk that is written say only what its manifest says."""
        manifest = self.manifest(chunk)
        self._write_split(chunk, manifest.places, manifest.splits)

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

    def is_whole(self, chunk: int) -> bool:
        """Return whether every patch of a chunk can be read back."""
        manifest = self.manifest(chunk)
        start = chunk * self.spec.chunk_patches
        names = [*self.spec.pixel_arrays, MOMENTS]
        try:
            if not all(holds_bytes(self._shard(name, chunk)) for name in names):
                return False
            for name in names:
                self.read(name, start + manifest.places)
            return self.is_marked(chunk)
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
        return self._read_all(MOMENTS)

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

    def _create_arrays(self) -> None:
        group = zarr.open_group(LocalStore(self.path), mode="r+", zarr_format=3)
        spec = self.spec
        for name, px in spec.pixel_arrays.items():
            self._create(group, name, (spec.channels, *px), "uint8", ("n", "c", "y", "x"), 0)
        self._create(group, MOMENTS, (spec.channels, 2), "int64", ("n", "c", "moment"), 0)
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
        )
        fsync(self.path / name / METADATA)
        fsync(self.path / name)

    def _write(
        self, name: str, chunk: int, places: NDArray[np.int64], values: NDArray[Any]
    ) -> None:
        """Write one shard anew: `values` at `places`, nothing elsewhere."""
        start = chunk * self.spec.chunk_patches
        stop = min(start + self.spec.chunk_patches, len(self))
        shard = self._shard(name, chunk)
        # Whatever stands there, and what a killed writer left beside it.
        for path in (shard, *shard.parent.glob(f"{shard.name}.__lock*")):
            _remove(path)
        store = self._store(name)[start:stop]
        block = np.full(store.shape, 0, dtype=values.dtype)
        block[places] = values
        try:
            store.write(block).result()
        except (ValueError, OSError) as error:
            raise OSError(f"{shard} cannot be written ({_first_line(error)})") from error
        for path in (shard, *shard.parents):
            fsync(path)
            if path == self.path:
                break

    def _write_split(
        self, chunk: int, places: NDArray[np.int64], values: NDArray[np.uint8]
    ) -> None:
        start = chunk * self.spec.chunk_patches
        many = min(self.spec.chunk_patches, len(self) - start)
        rows = np.full(many, NO_PATCH, dtype=np.uint8)
        rows[places] = values
        self._write(SPLIT, chunk, np.arange(many), rows)

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
        inner = {MOMENTS: ("0", "0"), SPLIT: ()}.get(name, ("0", "0", "0"))
        return self.path.joinpath(name, "c", str(chunk), *inner)

    def _manifest_file(self, chunk: int) -> Path:
        return self.path / MANIFEST / f"{chunk}.json"


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
    wide = pixels.reshape(*pixels.shape[:2], -1)
    total = wide.sum(axis=2, dtype=np.int64)
    squares = np.einsum("mcp,mcp->mc", wide, wide, dtype=np.int64, casting="unsafe")
    return np.stack((total, squares), axis=2)


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
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        # A black patch is written too: then a shard's existence is proof of its patches.
        "store_data_equal_to_fill_value": True,
    }
    return tensorstore.open(spec).result()


def _check_same(found: Dataset, spec: DatasetSpec) -> None:
    """Make sure that a dataset was made by the recipe that is wanted now."""
    if found.spec.fingerprint == spec.fingerprint:
        return
    before, now = dict(found.spec.recipe), dict(spec.recipe)
    differs = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    told = ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differs)
    raise DatasetError(
        f"{found.path} was prepared by another recipe ({told or 'of another upres'}); use the same "
        "values, or name another folder"
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
