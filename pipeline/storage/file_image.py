"""An image whose stored pixels are the file of its picture, byte for byte: the LR of a JPEG.

A lossless copy of a JPEG's pixels takes several times the space of the file. So the array has one
chunk, which is the file, and whoever reads a part of it decodes all of it. The last pictures of a
process stay decoded, so a worker decodes each about once for all its tiles.

The pixels have their hash in the attributes of the array, and the file has it in the provenance: a
changed bit, and a decoder that decodes in another way than the one at ingest, are errors.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError
from pipeline.storage.disk import make_folders, size_of
from pipeline.storage.image import StoredImage
from pipeline.storage.item_paths import item_path
from pipeline.storage.pixel_codecs import decode_jpeg, of_a_file
from pipeline.storage.spool import LARGE_BYTES
from pipeline.storage.zarr_metadata import LEVEL
from pipeline.storage.zarr_stores import place_at

if TYPE_CHECKING:
    from collections.abc import Callable

    import zarr
    from numpy.typing import NDArray

    from pipeline.geometry import Rect
    from pipeline.storage.store import Place

_PIXELS_KEY = "upres_pixels_sha256"
"""Attribute of the array: the hash of its pixels ``(y, x, c)``."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """The bytes of a JPEG file that decode to the pixels of its picture."""

    data: bytes
    shape: tuple[int, int, int]
    """(channels, rows, columns) of the pixels."""
    pixels_sha256: str

    @classmethod
    def of(cls, data: bytes, pixels: NDArray[Any]) -> PictureFile | None:
        """Return the file, None where `data` does not decode to just these `pixels` ``(c, y, x)``.

        Decodes all of it.
        """
        channels, rows, columns = pixels.shape
        try:
            decoded = decode_jpeg(data, (rows, columns, channels))
        except Exception:  # It raises anything on what another decoder takes: then it is not used.
            return None
        if decoded.dtype != pixels.dtype or not np.array_equal(_channels_first(decoded), pixels):
            return None
        return cls(data, (channels, rows, columns), _sha256(decoded))


@dataclass(slots=True)
class Decoded:
    """Decoded pictures, the last ones that were asked for: at most `most_bytes` of them.

    One picture is decoded at a time, so threads that ask for the same one share it.
    """

    most_bytes: int
    _pictures: OrderedDict[str, NDArray[Any]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, name: str, decode: Callable[[], NDArray[Any]], *, size_bytes: int) -> NDArray[Any]:
        """Return the picture of this name; `decode` makes it, of `size_bytes`, if it is not held.

        Whoever changes it changes it for all.
        """
        with self._lock:
            picture = self._pictures.pop(name, None)
            if picture is None:
                self._make_room(size_bytes)
                picture = decode()
            self._pictures[name] = picture
            return picture

    def forget(self) -> None:
        """Let go of all pictures."""
        with self._lock:
            self._pictures.clear()

    def _make_room(self, size_bytes: int) -> None:
        held = sum(picture.nbytes for picture in self._pictures.values())
        while self._pictures and held + size_bytes > self.most_bytes:
            held -= self._pictures.popitem(last=False)[1].nbytes


DECODED = Decoded(LARGE_BYTES)
"""The pictures that this process holds."""


@dataclass(frozen=True, slots=True)
class FileImage(StoredImage):
    """One item of an archive whose one chunk is the file of its picture."""

    def replace(self, rect: Rect, pixels: NDArray[Any]) -> None:
        """Refuse: the file stays as it came.

        Raises:
            ArchiveError: always.
        """
        raise ArchiveError(f"{self.item} is stored as the file that it came in; ingest it again")

    def _pixels(self, rect: Rect) -> NDArray[Any]:
        name = str(self.array.attrs[_PIXELS_KEY])
        size_bytes = self.channels * self.size[0] * self.size[1]
        if size_bytes > LARGE_BYTES:
            raise ValueError(
                f"its JPEG takes {size_bytes / 1e6:,.0f} MB decoded, expected at most "
                f"{LARGE_BYTES / 1e6:.0f} MB: upres did not make this archive"
            )
        picture = DECODED.of(name, self._decoded, size_bytes=size_bytes)
        return np.array(_channels_first(picture)[rect.index], order="C")

    def _decoded(self) -> NDArray[Any]:
        """Return the pixels ``(y, x, c)`` of the stored file, proven to be those of the picture.

        Raises:
            ValueError: if they are not.
        """
        data = self._file(_chunk_key(self.array)).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.provenance.get("sha256"):
            raise ValueError("the stored JPEG is not what was ingested, it was damaged or changed")
        pixels = decode_jpeg(data, (*self.size, self.channels))
        if _sha256(pixels) != self.array.attrs[_PIXELS_KEY]:
            raise ValueError(
                "the JPEG decoder here makes other pixels than the one at ingest, "
                "expected the same version of imagecodecs"
            )
        return pixels


def put_file(group: zarr.Group, file: PictureFile) -> zarr.Array[Any]:
    """Make the full-size array of an item, and write the file as its one chunk."""
    array = group.create_array(
        LEVEL,
        shape=file.shape,
        dtype="uint8",
        chunks=file.shape,
        dimension_names=("c", "y", "x"),
        attributes={_PIXELS_KEY: file.pixels_sha256},
        **of_a_file(),
    )
    chunk = place_at(array.store) / _chunk_key(array)
    make_folders(chunk.parent)
    chunk.write_bytes(file.data)
    return array


def is_file_stored(root: Place, item: str, *, size_bytes: int) -> bool:
    """Return whether an item of an archive is stored as its file, of so many bytes.

    Only looks at sizes: for estimates, as pixels could have just as many bytes.
    """
    return size_of(root / f"{item_path(item)}/{LEVEL}/c/0/0/0") == size_bytes


def _chunk_key(array: zarr.Array[Any]) -> str:
    return f"{array.path}/c/0/0/0"


def _channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(pixels, 2, 0)


def _sha256(pixels: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
