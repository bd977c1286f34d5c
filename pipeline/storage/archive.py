"""Archives: Zarr v3 groups in which every item is an OME-Zarr 0.5 image ``(c, y, x)``.

The one home of the zarr library. An item is complete once its group carries provenance, which is
written last: whatever was interrupted has none, and is written again. Items are found by walking
the folders, not by asking Zarr: it passes over every folder whose metadata is gone.

Sources: Zarr v3 core and sharding specifications; OME-Zarr (NGFF) 0.5.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, StorePath

from pipeline.errors import ArchiveError
from pipeline.geometry import Rect, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray


LEVEL = "0"
"""Name of the full-size array of an item."""

PROVENANCE_KEY = "upres"
ARCHIVE_KEY = "upres_archive"
"""Attribute of an archive's own group: the version of how its items are laid out."""

_METADATA = "zarr.json"

INNER_CHUNK_PX = 512
SOURCE_SHARD_PX = 4096
_NAME_BYTES = 240
"""Of the 255 that file systems allow; the rest is for escaping the first characters."""
DTYPES = ("uint8", "uint16", "float32")

# The checksum turns a flipped bit into an error.
CODEC = ZstdCodec(level=1, checksum=True)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the array of an item is cut into files: one shard a file, chunks inside."""

    shard_px: tuple[int, int]
    chunk_px: tuple[int, int]

    @classmethod
    def of(cls, *, height: int, width: int, shard_px: int) -> Layout:
        """Return shards of `shard_px` squares (less for a smaller picture) of whole chunks.

        Raises:
            ValueError: if a number is below 1.
        """
        if min(height, width, shard_px) < 1:
            raise ValueError(
                f"picture is {height}x{width} and its shards {shard_px} px, expected at least 1"
            )
        chunk = next((c for c in (INNER_CHUNK_PX, 256) if shard_px % c == 0), shard_px)
        shards = tuple(min(shard_px, -(-side // chunk) * chunk) for side in (height, width))
        return cls(shard_px=(shards[0], shards[1]), chunk_px=(chunk, chunk))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One item of an archive, opened."""

    item: str
    array: zarr.Array[Any]
    provenance: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return int(self.array.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return int(self.array.shape[1]), int(self.array.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a pixel: uint8, uint16 or float32."""
        return np.dtype(self.array.dtype)

    def read(self, rect: Rect) -> NDArray[Any]:
        """Return the pixels ``(c, rows, cols)`` of `rect`.

        Raises:
            ArchiveError: if a shard is missing (Zarr itself would return black) or damaged.
        """
        missing = [key for key in self._shard_keys(rect) if not _holds_bytes(self._file(key))]
        if missing:
            raise ArchiveError(self._unreadable(rect, f"{missing[0]} is missing"))
        try:
            pixels = np.asarray(self.array[rect.index])
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ArchiveError(self._unreadable(rect, reason)) from error
        if pixels.shape[1:] != rect.shape:
            raise ArchiveError(self._unreadable(rect, f"the picture is {self.size}"))
        return pixels

    def is_whole(self, rect: Rect) -> bool:
        """Return whether every pixel of `rect` was written and can be read back."""
        try:
            self.read(rect)
        except ArchiveError:
            return False
        return True

    def has_shard(self, rect: Rect) -> bool:
        """Return whether the file of every shard of `rect` is there and not empty.

        Nothing is read: a shard that is there may still be damaged, which `is_whole` tells.
        """
        return all(_holds_bytes(self._file(key)) for key in self._shard_keys(rect))

    def shards_present(self) -> set[tuple[int, int]]:
        """Return (row, col) of each shard whose file is there and not empty, by one walk.

        ``(r, c) in shards_present() == has_shard(Rect(rows of shard r, cols of shard c))``
        """
        return {
            (row, int(entry.name))
            for row, folder in _numbered(self._file(f"{self.array.path}/c/0"))
            for entry in _scanned(folder)
            if _is_number(entry.name) and entry.is_file() and entry.stat().st_size
        }

    def replace(self, rect: Rect, pixels: NDArray[Any]) -> None:
        """Write `rect`, which is exactly one shard, and make it durable.

        The old shard is deleted first: a damaged one could not be written over, as writing reads
        it. When this returns, the pixels survive a power cut.

        Raises:
            ArchiveError: if `rect` is not one whole shard, or `pixels` do not fit it.
        """
        wanted = (self.channels, *rect.shape)
        if pixels.shape != wanted or pixels.dtype != self.dtype:
            raise ArchiveError(
                f"{self.item}: pixels are {pixels.dtype} {pixels.shape}, expected {self.dtype} "
                f"{wanted}"
            )
        keys = self._shard_keys(rect)
        height, width = self.size
        inside = rect.rows.stop <= height and rect.cols.stop <= width
        if len(keys) != 1 or not inside or rect != self._shard_at(rect):
            raise ArchiveError(f"{self.item}: {rect} is not one shard of {self._shard_px} px")
        file = self._file(keys[0])
        # A writer that was killed leaves its partial file behind, beside the shard.
        for stale in (file, *file.parent.glob(f"{file.name}.*.partial")):
            stale.unlink(missing_ok=True)
        self.array[rect.index] = pixels
        _fsync(file)
        _fsync(file.parent)

    @property
    def _shard_px(self) -> tuple[int, int]:
        shard = self.array.shards or self.array.chunks
        return int(shard[1]), int(shard[2])

    def _shard_keys(self, rect: Rect) -> list[str]:
        """Return the keys of all shards that hold pixels of `rect`."""
        rows, cols = (
            range(span.start // side, -(-span.stop // side))
            for span, side in zip((rect.rows, rect.cols), self._shard_px, strict=True)
        )
        return [f"{self.array.path}/c/0/{row}/{col}" for row in rows for col in cols]

    def _shard_at(self, rect: Rect) -> Rect:
        """Return the shard, clipped to the picture, in which `rect` begins."""
        spans = []
        for span, side, length in zip(
            (rect.rows, rect.cols), self._shard_px, self.size, strict=True
        ):
            start = span.start // side * side
            spans.append(Span(start, min(start + side, length)))
        return Rect(*spans)

    def _file(self, key: str) -> Path:
        store = self.array.store
        if not isinstance(store, LocalStore):
            raise ArchiveError(f"{self.item} lies in {store}, expected a local folder")
        return store.root / key

    @property
    def _mend(self) -> str:
        """Return what to do about a damaged shard: SR is computed again, LR is read again."""
        if "fingerprint" in self.provenance:
            return "`upres rerun JOB` computes it again once it is marked as failed"
        return "delete the item's folder from the archive and ingest it again"

    def _unreadable(self, rect: Rect, reason: str) -> str:
        rows, cols = rect.rows, rect.cols
        return (
            f"{self.item} rows {rows.start}-{rows.stop} cols {cols.start}-{cols.stop} cannot be "
            f"read ({reason}); {self._mend}"
        )


class Archive:
    """A Zarr group that holds images by item id."""

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Open an existing archive.

        Raises:
            ArchiveError: if there is none at `path`, or one that upres did not write.
        """
        try:
            if not is_archive(path):  # Opening would make the folder.
                raise FileNotFoundError(path)
            group = zarr.open_group(LocalStore(path), mode="r+", zarr_format=3)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(
                f"{path} is no Zarr v3 archive ({type(error).__name__}); make one with "
                "`upres ingest SRC ARCHIVE`"
            ) from error
        if ARCHIVE_KEY not in group.attrs:
            raise ArchiveError(
                f"{path} is a Zarr group, but no archive that upres wrote; give its pictures as "
                "files and make one with `upres ingest SRC ARCHIVE`"
            )
        return cls(path, group)

    @classmethod
    def open_or_create(cls, path: Path) -> Archive:
        """Open the archive at `path`, or make an empty one where there is none."""
        if is_archive(path):
            return cls.open(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ArchiveError(
                f"{path} exists and is no archive; name an empty folder or one that upres wrote"
            )
        group = zarr.create_group(LocalStore(path), zarr_format=3, attributes={ARCHIVE_KEY: 1})
        return cls(path, group)

    def items(self) -> Iterator[str]:
        """Yield the ids of all complete items, sorted."""
        for item, found in self.survey():
            if isinstance(found, StoredImage):
                yield item

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Yield (item, reason) of whatever looks like an item and is no complete one, sorted.

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
        paths = (path for path in _item_folders(self.path) if path)
        for item, path in sorted((_name_of(path), path) for path in paths):
            try:
                yield item, self._opened(item, path)
            except ArchiveError as error:
                yield item, error

    def image(self, item: str) -> StoredImage:
        """Open one item.

        Raises:
            ArchiveError: if it is not there, is incomplete or damaged, or is no (c, y, x) image.
        """
        return self._opened(item, item_path(item))

    def _opened(self, item: str, path: str) -> StoredImage:
        folder = self.path / path
        if not folder.is_dir():
            raise ArchiveError(f"{self.path} holds no item {item!r}; ingest it again")
        try:
            provenance = _provenance(folder)
            array = _array(StorePath(self._group.store, f"{path}/{LEVEL}"), folder / LEVEL)
        except ArchiveError as error:
            raise ArchiveError(
                f"{self.path}: item {item!r} {error}; ingest it again, or delete its folder"
            ) from error
        if item_path(item) != path:
            raise ArchiveError(
                f"{folder} is not named as upres names the folder of an item, expected "
                f"{item_path(item)!r}; ingest it again, or delete the folder"
            )
        return StoredImage(item, array, provenance)

    def provenance(self, item: str) -> Mapping[str, Any] | None:
        """Return the provenance of a complete item, None where there is no such item."""
        try:
            return self.image(item).provenance
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
        """Make an item anew, deleting what was there, with `pixels` or for tiles to come.

        When this returns, the item and its metadata survive a power cut. Of two writers that make
        an item and another one inside it at once, neither sees the other: see `clashing`.

        Raises:
            ArchiveError: if the item would lie inside another one, or another one inside it.
        """
        for outer in _outer(item):
            if self.provenance(outer) is not None:
                raise ArchiveError(
                    f"{self.path}: {item!r} would lie inside the item {outer!r}; rename one of them"
                )
        self.delete(item)
        self._mend_outer(item_path(item))
        group = self._group.create_group(item_path(item))
        array = group.create_array(
            LEVEL,
            shape=shape,
            dtype=dtype,
            chunks=(shape[0], *layout.chunk_px),
            shards=(shape[0], *layout.shard_px),
            compressors=CODEC,
            dimension_names=("c", "y", "x"),
            config={"write_empty_chunks": True},
        )
        if pixels is not None:
            array[...] = pixels
            _sync_tree(self.path / item_path(item))
        group.update_attributes({"ome": _ome(item), PROVENANCE_KEY: dict(provenance)})
        self._sync_metadata(item_path(item))
        return StoredImage(item, array, provenance)

    def delete(self, item: str) -> None:
        """Remove an item and its pixels, if it is there, however damaged it is.

        Raises:
            ArchiveError: if it is no item but a folder of items.
        """
        path = item_path(item)
        folder = self.path / path
        if not folder.is_dir():
            folder.unlink(missing_ok=True)
            return
        if not _is_claimed(folder):
            below = (p for p in _item_folders(self.path, path) if p != path)
            inner = next((p for p in sorted(below) if not _is_unfinished(self.path / p)), None)
            if inner is not None:
                raise ArchiveError(
                    f"{self.path}: the item {_name_of(inner)!r} lies inside {item!r}; "
                    "rename one of them"
                )
        # Without its group file the item is gone for every reader before pixels vanish.
        (folder / _METADATA).unlink(missing_ok=True)
        shutil.rmtree(folder)

    def _mend_outer(self, path: str) -> None:
        """Remove unreadable metadata of the folders around an item: Zarr writes them anew."""
        for outer in _outer(path):
            file = self.path / outer / _METADATA
            try:
                kind = _metadata(file.parent).get("node_type")
            except ArchiveError:
                file.unlink(missing_ok=True)
                continue
            if kind != "group":
                raise ArchiveError(
                    f"{self.path}: {item_of(path)!r} would lie inside {outer!r}, which is "
                    f"{kind!r}, expected a group; delete the folder {outer!r}"
                )

    def _sync_metadata(self, path: str) -> None:
        """Make the metadata of one item durable, and the folders that lead to it."""
        folder = self.path / path
        outer = list(folder.parents)[: path.count("/") + 1]
        level = folder / LEVEL
        for synced in (level / _METADATA, level, folder / _METADATA, folder, *outer):
            _fsync(synced)


def clashing(items: Iterable[str]) -> dict[str, str]:
    """Return each item that would lie inside another one of `items`, and that other one.

    The outermost wins: it is no key, and every other item inside it names it. The result does not
    depend on the order of `items`.
    """
    known = set(items)
    outer_of = {item: next((o for o in _outer(item) if o in known), None) for item in known}
    return {item: outer for item, outer in sorted(outer_of.items()) if outer is not None}


def is_archive(path: Path) -> bool:
    """Return whether a Zarr v3 group or array lies at `path`."""
    return (path / _METADATA).is_file()


def item_path(item: str) -> str:
    """Return the Zarr path of an item id: the id itself, unsafe parts percent-encoded.

    Distinct ids give distinct paths, and no id leads out of the archive. A part that is too long
    for the name of a folder becomes several, all but the last ending with a bare "%".
    """
    if not item:
        raise ArchiveError("item id is empty, expected a relative path")
    try:
        item.encode()
    except UnicodeEncodeError as error:
        raise ArchiveError(f"item id {item!r} is no valid Unicode text") from error
    return "/".join("%/".join(map(_encode, _pieces(part))) for part in item.split("/"))


def item_of(path: str) -> str:
    """Return the id whose `item_path` is `path`."""
    path = re.sub("(?<=[^/])%/", "", path)
    return "/".join("" if part == "%" else unquote(part) for part in path.split("/"))


def _pieces(part: str) -> list[str]:
    """Cut `part` where its encoding would be too long for the name of a folder."""
    pieces = [""]
    size = 0
    for c in part:
        size += len(_percent(c).encode())
        if size > _NAME_BYTES:
            pieces.append("")
            size = len(_percent(c).encode())
        pieces[-1] += c
    return pieces


def _encode(part: str) -> str:
    if not part:
        return "%"
    if part == _METADATA or part.startswith("__") or not part.strip("."):
        return "".join(f"%{byte:02X}" for byte in part[:2].encode()) + _percent(part[2:])
    return _percent(part)


def _percent(part: str) -> str:
    # Zarr store keys are text: everything but the escape sign and backslash may stand as it is.
    return "".join(quote(c, safe="") if c in "%\\" or ord(c) < 32 else c for c in part)


def _outer(item: str) -> Iterator[str]:
    """Yield the ids in which `item` would lie, outermost first."""
    for slash in re.finditer("/", item):
        if slash.start():
            yield item[: slash.start()]


def _name_of(path: str) -> str:
    """Return the id of the item at `path`, or the path itself where no id leads there."""
    item = item_of(path)
    try:
        return item if item_path(item) == path else path
    except ArchiveError:
        return path


def _item_folders(root: Path, start: str = "") -> Iterator[str]:
    """Yield the path of every folder from `start` on that is an item, complete or not.

    Complete items are not entered: their files are pixels.
    """
    waiting = [start]
    while waiting:
        path = waiting.pop()
        try:
            is_item = bool(path) and _is_item(root / path)
            inner = _inner_folders(root / path, top=not path)
        except PermissionError:
            # Nobody can tell what it holds: not to be passed over.
            is_item, inner = True, []
        if is_item:
            yield path
        if not (is_item and _is_claimed(root / path)):
            waiting.extend(f"{path}/{name}" if path else name for name in inner)


def _inner_folders(folder: Path, *, top: bool) -> list[str]:
    """Return the folders in `folder` that may be or hold items: not the array of an item."""
    names = [entry.name for entry in _scanned(folder) if entry.is_dir()]
    if not top and LEVEL in names and _is_level(folder / LEVEL):
        names.remove(LEVEL)
    return names


def _is_item(folder: Path) -> bool:
    """Return whether a folder is, was or was to become an item, and no mere folder of items."""
    try:
        metadata = _metadata(folder)
    except ArchiveError:
        if _is_level(folder / LEVEL):
            return True
        return (folder / _METADATA).exists() and not _holds_metadata(folder)
    if metadata.get("node_type") != "group":
        return True
    attributes = metadata.get("attributes", {})
    if not isinstance(attributes, dict):
        return True
    return bool({PROVENANCE_KEY, "ome"} & attributes.keys()) or _is_level(folder / LEVEL)


def _is_claimed(folder: Path) -> bool:
    """Return whether a folder is an item for certain: it carries provenance."""
    try:
        _provenance(folder)
    except ArchiveError:
        return False
    return True


def _is_unfinished(folder: Path) -> bool:
    """Return whether a writer was interrupted here: sound metadata, but no provenance yet."""
    try:
        metadata = _metadata(folder)
    except ArchiveError:
        return False
    attributes = metadata.get("attributes", {})
    return isinstance(attributes, dict) and PROVENANCE_KEY not in attributes


def _is_level(folder: Path) -> bool:
    """Return whether a folder called "0" is an array, rather than an item of that name."""
    if not folder.is_dir():
        return False
    try:
        return _metadata(folder).get("node_type") == "array"
    except ArchiveError:
        # Where all metadata is gone: pixels lie in "c", and the array of an item in "0".
        return not _holds_metadata(folder) and not (folder / LEVEL).is_dir()


def _holds_metadata(folder: Path) -> bool:
    """Return whether any folder inside `folder` has Zarr metadata."""
    return any(_METADATA in names for at, _, names in os.walk(folder) if at != str(folder))


def _metadata(folder: Path) -> dict[str, Any]:
    """Return what the ``zarr.json`` of a folder says.

    Raises:
        ArchiveError: if it is missing or damaged; the message completes "the item ...".
    """
    path = folder / _METADATA
    name = f"{folder.name}/{_METADATA}"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "is missing" if missing else f"cannot be read ({type(error).__name__})"
        raise ArchiveError(f"is damaged: {name} {reason}") from error
    if not isinstance(found, dict):
        raise ArchiveError(f"is damaged: {name} holds {type(found).__name__}, expected an object")
    return found


def _provenance(folder: Path) -> Mapping[str, Any]:
    """Return the provenance in the metadata of an item's folder.

    Raises:
        ArchiveError: if there is none; the message completes "the item ...".
    """
    metadata = _metadata(folder)
    if metadata.get("node_type") != "group":
        raise ArchiveError(f"is damaged: it is {metadata.get('node_type')!r}, expected a group")
    attributes = metadata.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ArchiveError(f"is damaged: attributes are {type(attributes).__name__}, not an object")
    provenance = attributes.get(PROVENANCE_KEY)
    if not isinstance(provenance, dict):
        raise ArchiveError("is incomplete: it has no provenance")
    return provenance


def _array(place: StorePath, folder: Path) -> zarr.Array[Any]:
    """Open the full-size array of an item.

    Raises:
        ArchiveError: if it is no (c, y, x) array; the message completes "the item ...".
    """
    metadata = _metadata(folder)
    try:
        array = zarr.Array.from_dict(place, metadata)
        shape, dtype, side = array.shape, str(array.dtype), array.shards or array.chunks
    except Exception as error:  # Zarr fails on damaged metadata in as many ways as it has fields.
        raise ArchiveError(
            f"is damaged: {folder.name}/{_METADATA} describes no array ({type(error).__name__})"
        ) from error
    if len(shape) != 3 or dtype not in DTYPES or min(*shape, *side) < 1:
        raise ArchiveError(f"is {dtype} {shape}, expected (c, y, x) of {' | '.join(DTYPES)}")
    # An all-black tile is written too: then a shard's existence is proof of its tile.
    return array.with_config({"write_empty_chunks": True})


def _ome(item: str) -> dict[str, Any]:
    """Return the OME-Zarr 0.5 description of a (c, y, x) image with one level."""
    axes = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    level = {
        "path": LEVEL,
        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}],
    }
    return {"version": "0.5", "multiscales": [{"name": item, "axes": axes, "datasets": [level]}]}


def _holds_bytes(file: Path) -> bool:
    """Return whether `file` is there and not empty: Zarr reads both other cases as black."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _scanned(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, nothing where there is none."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _numbered(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, path) of what lies in `folder` and is named by a number."""
    for entry in _scanned(folder):
        if _is_number(entry.name):
            yield int(entry.name), entry.path


def _is_number(name: str) -> bool:
    """Return whether `name` is how Zarr writes a number: not "07", nor another script's digit."""
    return name.isdecimal() and name.isascii() and (name[0] != "0" or name == "0")


def _sync_tree(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
