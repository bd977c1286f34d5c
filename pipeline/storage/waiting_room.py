"""Small pictures that wait for their chunk: decoded once, on the disk of the archive until then.

A task's pictures are in one file of its own. Nothing is lost with these files: whose pixels are not
there is read from the source again. In a bucket there are none, as each would be a request.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.storage.stack_kind import STACKS_FOLDER
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from pipeline.storage.store import Place

_FOLDER = "waiting"


@dataclass(frozen=True, slots=True)
class Held:
    """Where the pixels of a picture are, and what its archive will say of it."""

    file: str
    start: int
    said_bytes: int
    """What is said comes first, as JSON."""
    checksum: int
    """Of the pixels."""


class WaitingRoom:
    """The pictures of one task that wait."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def hold(self, pixels: NDArray[Any], said: Mapping[str, Any]) -> Held | None:
        """Keep the pixels ``(c, h, w)`` of a picture and what is said of it; None in a bucket.

        Raises:
            OSError: if the disk has no room.
        """
        if self._folder is None:
            return None
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / uuid.uuid4().hex).open("xb")
        start, words = self._file.tell(), json.dumps(said).encode()
        content = np.ascontiguousarray(pixels).data
        self._file.writelines([words, content])
        return Held(self._file.name, start, len(words), zlib.crc32(content))

    def close(self) -> None:
        """Let others read what is held."""
        if self._file is not None:
            self._file.close()


@contextmanager
def waiting_room(archive_dir: Place) -> Iterator[WaitingRoom]:
    """Yield the room of one task; what it holds can be read after the block."""
    room = WaitingRoom(_folder_in(archive_dir))
    try:
        yield room
    finally:
        room.close()


def taken(
    held: Held, shape: tuple[int, ...], dtype: str
) -> tuple[NDArray[Any], dict[str, Any]] | None:
    """Return the pixels of this shape ``(c, h, w)`` and what is said of them.

    None where they are gone, or not as they were.
    """
    try:
        with open(held.file, "rb") as file:  # noqa: PTH123 - a million.
            file.seek(held.start)
            said = json.loads(file.read(held.said_bytes))
            pixels = np.fromfile(file, dtype, count=math.prod(shape)).reshape(shape)
    except (OSError, ValueError):
        return None
    return (pixels, said) if zlib.crc32(pixels.data) == held.checksum else None


def clear(archive_dir: Place) -> None:
    """Remove what waits, or waited when an ingestion was killed."""
    folder = _folder_in(archive_dir)
    if folder is not None and folder.exists():
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()  # No stack was made.


def _folder_in(archive_dir: Place) -> Path | None:
    return None if isinstance(archive_dir, BucketPlace) else archive_dir / STACKS_FOLDER / _FOLDER
