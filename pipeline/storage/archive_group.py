"""The Zarr group of an archive: whether there is one at a place, and opening it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import zarr

from pipeline.errors import ArchiveError, UnreadableError
from pipeline.storage.zarr_metadata import CHECK_DISK, METADATA
from pipeline.storage.zarr_stores import store_at

if TYPE_CHECKING:
    from pipeline.storage.store import Place

ARCHIVE_KEY = "upres_archive"
"""Attribute of an archive's own group: the version of how its items are laid out."""


def open_group(path: Place) -> zarr.Group:
    """Open the group of an existing archive.

    Raises:
        ArchiveError: if there is none at `path`, or one that upres did not write.
    """
    try:
        if isinstance(path, Path) and not is_archive(path):  # Opening would make the folder.
            raise FileNotFoundError(path)
        group = zarr.open_group(store_at(path), mode="r+", zarr_format=3)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise ArchiveError(_no_archive(path, error)) from error
        reason = error.strerror or error
        raise UnreadableError(f"{path} cannot be read ({reason}); {CHECK_DISK}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(_no_archive(path, error)) from error
    if ARCHIVE_KEY not in group.attrs:
        raise ArchiveError(
            f"{path} is a Zarr group, but no archive that upres wrote; give its pictures as "
            "files and make one with `upres ingest SRC ARCHIVE`"
        )
    return group


def _no_archive(path: Place, error: Exception) -> str:
    return (
        f"{path} is not a Zarr v3 archive ({type(error).__name__}); make one with "
        "`upres ingest SRC ARCHIVE`"
    )


def is_archive(path: Place) -> bool:
    """Return whether a Zarr v3 group or array is at `path`.

    Raises:
        UnreadableError: if this user may not look there.
    """
    try:
        return (path / METADATA).is_file()
    except PermissionError as error:
        raise UnreadableError(
            f"{path} cannot be looked into ({error.strerror}); grant access to it"
        ) from error
