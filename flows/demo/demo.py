"""The demonstration: the main job on photographs that come with upres, end to end."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.services.private_prefect import own_prefect
from pipeline.degradation.apply import degrade_bicubic
from pipeline.errors import OccupiedError, PictureError, UsageError
from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.formats import EXTENSIONS
from pipeline.pictures.picture import Picture
from pipeline.sources.listing import list_source
from pipeline.storage.atomic import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compute.request import WorkersRequest

OWN = frozenset({"small", "originals", "prefect", "job", "images"})
"""What a demonstration leaves in its folder."""

PHOTOS_DIR = Path(__file__).parent / "photos"
MODEL = "span-x4"
SCALE = 4
TILE_PX = 64
"""Smaller than the default, so that small photographs too have a map of several tiles."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration came to: the document of the flow, with its seconds."""

    folder: Path
    document: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Return whether every photograph was upscaled, scored and exported."""
        items = self.document["items"]
        failed = items["failed"] or items["pending"] or items["rejected"]
        scored, exported = self.document["scores"], self.document["export"]
        return not (failed or scored["failures"] or exported["failures"])


def run_demo(
    folder: Path, cluster: WorkersRequest, *, before_flow: Callable[[], None] = lambda: None
) -> DemoResult:
    """Reduce the shipped photographs by four, and upscale them again through the Prefect flow.

    `before_flow` is called once the photographs are there: starting the flow takes a while.

    Raises:
        UsageError: if `folder` holds anything that is not of a demonstration.
    """
    began = time.monotonic()
    check_own_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    make_small(folder / "originals", folder / "small")
    place = folder.resolve()
    before_flow()
    with own_prefect(place / "prefect"):
        from flows.endings import document_of
        from flows.upscale import upscale_archive

        state = upscale_archive(
            src=str(place / "small"),
            job_dir=place / "job",
            model=MODEL,
            tile_px=TILE_PX,
            reference=str(place / "originals"),
            export_dir=place / "images",
            file_format="png",
            cluster=cluster.cluster,
            clusters=cluster.clusters,
            workers=cluster.workers,
            return_state=True,
        )
        document = document_of(state)
    document["seconds"] = round(time.monotonic() - began, 1)
    return DemoResult(folder, document)


def check_own_folder(folder: Path) -> None:
    """Make sure that a folder is new, empty, or of a demonstration before.

    Raises:
        UsageError: if it holds anything else.
    """
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()}
    if foreign := sorted(names - OWN) or sorted(names if names and "small" not in names else ()):
        raise UsageError(
            f"{folder} holds {foreign[0]}, which is not of a demonstration; name a new or empty "
            "folder"
        )


def make_small(originals: Path, small: Path) -> None:
    """Copy the shipped photographs to `originals` and write them, reduced by four, to `small`."""
    for file in list_source(str(PHOTOS_DIR)):
        if Path(file.item).suffix.lower() not in EXTENSIONS:
            continue
        data = file.read()
        picture = read_picture(data, name=file.item)
        reduced = Picture(pixels=degrade_bicubic(picture.pixels, SCALE), metadata=picture.metadata)
        original, lr = originals / file.item, (small / file.item).with_suffix(".png")
        if _is_due(original, picture):
            write_atomic(original, data)
        if _is_due(lr, reduced):
            write_picture(lr, reduced, format="png")


def _is_due(path: Path, picture: Picture) -> bool:
    """Return whether a picture of the demonstration is not there yet; make its folder.

    Raises:
        OccupiedError: if another file has its name.
    """
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return True
    try:
        pixels = read_picture(path.read_bytes(), name=path.name).pixels
    except (OSError, PictureError):
        pixels = picture.pixels[:, :0]
    if not np.array_equal(pixels, picture.pixels):
        raise OccupiedError(
            f"{path} exists and is not of the demonstration, which would replace it; name another "
            "folder"
        )
    return False
