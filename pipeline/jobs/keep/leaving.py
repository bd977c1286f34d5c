"""What a worker does before pixels are let go: it looks at what remains, and keeps a preview."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ArchiveError, OccupiedError
from pipeline.jobs.export.local_file import holds
from pipeline.jobs.item_images import lr_image, sr_image
from pipeline.jobs.overview import overview, shown
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.together import read_ahead
from pipeline.pictures.codecs.previews import encode_preview
from pipeline.pictures.files import decode_picture
from pipeline.pictures.metadata.metadata import KEYS as METADATA_KEYS
from pipeline.storage.access import EVERYONE
from pipeline.storage.archive import Archive
from pipeline.storage.atomic import write_atomic
from pipeline.storage.disk import make_folders
from pipeline.storage.ledger import LR, SR, LetGoRow
from pipeline.storage.stack_kind import Kind
from pipeline.storage.store import place_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.jobs.keep.candidates import Finished
    from pipeline.storage.image import StoredImage
    from pipeline.storage.ledger import ItemRow
    from pipeline.storage.store import Place

PREVIEWS = "previews"
"""Name of the folder of a job with what remains to be seen of pictures."""

PREVIEW_PX = 320

_MOST_ROWS = 60_000
"""A JPEG has 65,535 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingTask:
    """One item, or all of one chunk of a stack, whose pixels are about to go."""

    items: tuple[Finished, ...]
    job: str
    """Id of the job."""
    source_dir: Place
    sr_dir: Place
    previews_dir: Place
    readers: int = EVERYONE
    """Who may read the previews, as `storage.access` says it."""


@dataclass(slots=True)
class _Images:
    """The images of a task. All of a chunk are read at once: each alone would mean reading it."""

    task: LeavingTask
    _archives: dict[Place, Archive] = field(default_factory=dict)

    def lr(self, row: ItemRow) -> StoredImage:
        """Open the LR image of an item, as `lr_image`."""
        return lr_image(self._archive(self.task.source_dir), row)

    def sr(self, row: ItemRow) -> StoredImage:
        """Open the SR image of an item, as `sr_image`."""
        return sr_image(self._archive(self.task.sr_dir), row)

    def _archive(self, place: Place) -> Archive:
        if place not in self._archives:
            archive = Archive.open(place)
            read_ahead(archive, [one.row for one in self.task.items])
            self._archives[place] = archive
        return self._archives[place]


def take_leave(task: LeavingTask) -> list[LetGoRow]:
    """Return what the ledger is to keep of each item; its preview is durable then.

    Raises:
        OccupiedError: if an exported file is not what the job wrote any more.
        ArchiveError: if the pixels that a preview is made of cannot be read.
    """
    for one in task.items:
        _check_exported(one, task.job)
    images = _Images(task)
    rows = [row for one in task.items for row in _rows_of(one, images)]
    if any(SR in one.archives for one in task.items):
        _keep_preview(task, images)
    return rows


def _check_exported(one: Finished, job: str) -> None:
    file = one.exported
    if file is not None and not holds(place_of(file.path), {file.sha256}, job=job):
        raise OccupiedError(
            f"{file.path} changed since this job wrote it, so the pixels of {one.row.item} stay; "
            "move it away and repeat the command"
        )


def _rows_of(one: Finished, images: _Images) -> list[LetGoRow]:
    row, rows = one.row, []
    if SR in one.archives:
        said = images.sr(row).provenance
        facts = {k: v for k, v in said.items() if k == "format" or k not in METADATA_KEYS}
        says = UpscaleSpec.from_json(said["spec"]).fingerprint_of(row)
        rows.append(LetGoRow(archive=SR, item=row.item, says=says, facts=json.dumps(facts)))
    if LR in one.archives:
        rows.append(LetGoRow(archive=LR, item=row.item, says=row.sha256))
    return rows


def preview_file(previews_dir: Place, row: ItemRow) -> tuple[Place, int]:
    """Return the file with the preview of an item, and which of the pictures below each other.

    The images of a chunk share one file.
    """
    # No item has a zero byte in its name.
    name = f"{row.stack}\0{row.chunk}" if row.stack else row.item
    key = sha256(name.encode(errors="surrogateescape")).hexdigest()
    return previews_dir / key[:2] / f"{key}.jpg", row.place if row.stack else 0


def read_preview(previews_dir: Place, row: ItemRow) -> bytes | None:
    """Return the preview of an item as the bytes of a JPEG; None where there is none."""
    file, number = preview_file(previews_dir, row)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    if not row.stack:
        return content
    strip = decode_picture(content, name=file.name).pixels
    start = number * Kind.of(row.stack).height
    own = strip[:, start : start + row.height, : row.width]
    return encode_preview(own, format="jpeg") if own.shape[1] == row.height else None


def _keep_preview(task: LeavingTask, images: _Images) -> None:
    first = task.items[0].row
    file, _ = preview_file(task.previews_dir, first)
    make_folders(file.parent)
    pixels = _strip(images) if first.stack else _small(first, images, most_px=PREVIEW_PX)
    write_atomic(file, encode_preview(pixels, format="jpeg"), readers=task.readers)


def _small(row: ItemRow, images: _Images, *, most_px: int) -> NDArray[np.uint8]:
    """Return a picture small, by its LR pixels or, where these are gone, by its SR pixels."""
    try:
        return shown(overview(images.lr(row), most_px=most_px))
    except ArchiveError:
        return shown(overview(images.sr(row), most_px=most_px))


def _strip(images: _Images) -> NDArray[np.uint8]:
    """Return the pictures of a chunk below each other at the size of their LR, by their places.

    Those of a mixed stack are in their boxes. There are only so many as a JPEG holds: the last ones
    of a chunk of thin pictures have none.
    """
    items = images.task.items
    first = items[0].row
    kind = Kind.of(first.stack)
    places = min(1 + max(one.row.place for one in items), _MOST_ROWS // kind.height)
    colours = 1 if first.channels <= 2 else 3
    strip = np.full((colours, places, kind.height, kind.width), 255, np.uint8)
    for row in (one.row for one in items if one.row.place < places):
        small = _small(row, images, most_px=max(row.height, row.width))
        strip[:, row.place, : row.height, : row.width] = small
    return strip.reshape(colours, -1, kind.width)
