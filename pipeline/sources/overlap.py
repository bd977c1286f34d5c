"""Which places must be apart: what a command writes, from what it or the next run reads.

What belongs here: refusing folders before anything is computed. Not: how folders are told from one
another (`storage.places`), nor single files that are in the way (`jobs.export`).
"""

from __future__ import annotations

import fnmatch
import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StoreError, UsageError
from pipeline.pictures.formats import EXTENSIONS
from pipeline.sources.buckets import split
from pipeline.storage.archive_group import is_archive
from pipeline.storage.places import Identity, folders_below, is_inside, lineage, ways_below
from pipeline.storage.store import BucketPlace, is_address, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.storage.store import Place


def check_export_folder(
    out_dir: Place, *, src: str | None, job_dir: Place, reference: str | None = None
) -> None:
    """Refuse to export where the next run would read, or where an archive keeps its pixels.

    Folders are compared by what they are, not by their names. Inside a job that is in the source is
    right, as jobs are never read as sources.

    Raises:
        UsageError: if `out_dir` is a file or the job itself; is in an archive, in the source `src`
            or in `reference`; or if a file there is one of the source, by a hard link.
    """
    if not _is_folder_or_free(out_dir):
        raise UsageError(f"cannot export into {out_dir}: it is not a folder; name a new folder")
    if is_inside(out_dir, job_dir) and is_inside(job_dir, out_dir):
        raise UsageError(
            f"cannot export into {out_dir}: it is the job itself; name another folder, such as "
            f"{job_dir / 'images'}"
        )
    store = next(filter(_is_store, _folders_of(out_dir)), None)
    if store is not None:
        raise UsageError(
            f"cannot export into {out_dir}: it is in the Zarr store {store}; name another folder"
        )
    if reference is not None and reads(reference, out_dir):
        raise UsageError(
            f"cannot export into {out_dir}: it is in --reference {reference}, so that exported "
            "pictures would be taken for originals; name another folder"
        )
    if src is None:
        return
    own = is_inside(job_dir, place_of(src)) and is_inside(out_dir, job_dir)
    if not own and reads(src, out_dir):
        raise UsageError(
            f"cannot export into {out_dir}: it is in the source {src}, by this or another name, so "
            "the next run would upscale what this one writes; name a folder outside of it"
        )
    original = next(_shared_files(src, out_dir), None)
    if original is not None:
        raise UsageError(
            f"cannot export into {out_dir}: it holds the original {original} itself, by a hard "
            "link or another name; name another folder"
        )


def check_new_job(job_dir: Place) -> None:
    """Refuse to make a job in another job or in a Zarr store: it would be moved or deleted with it.

    Raises:
        UsageError: then.
    """
    for folder in _folders_of(job_dir):
        kind = "Zarr store" if _is_store(folder) else "job" if _is_job(folder) else ""
        if kind:
            raise UsageError(
                f"{job_dir} would be a job in the {kind} {folder}; name a folder outside of that"
            )


def check_not_own_pictures(job_dir: Place, *, src: str) -> None:
    """Refuse to upscale into a job what is in its own folder, such as what it exported there.

    Its own archives, and a folder that is not a job yet, are refused elsewhere, by what they are.

    Raises:
        UsageError: then.
    """
    source = place_of(src)
    if is_inside(source, job_dir) and _is_job(job_dir) and not is_archive(source):
        raise UsageError(
            f"the source {src} is in the job {job_dir}, which would upscale its own pictures; give "
            "the originals, or name another folder for the job"
        )


def _is_folder_or_free(place: Place) -> bool:
    """Return whether files may be put into a place, as far as what is there now shows."""
    if isinstance(place, BucketPlace):
        return not place.is_file()
    return place.is_dir() or not os.path.lexists(place)


def _folders_of(place: Place) -> list[Path] | list[BucketPlace]:
    """Return a place and those that it is in, nearest first, as far as they exist."""
    if isinstance(place, BucketPlace):
        return [place, *place.parents]
    return [folder.path for folder in lineage(place)]


def _is_store(folder: Place) -> bool:
    try:
        return (folder / "zarr.json").is_file()
    except StoreError:
        return False  # The credentials may be for a folder inside of it alone.


def _is_job(folder: Place) -> bool:
    """Return whether a folder is a job; a job in a bucket has its lock elsewhere."""
    names = ("job.json",) if isinstance(folder, BucketPlace) else ("job.json", "lock")
    try:
        return all((folder / name).is_file() for name in names)
    except StoreError:
        return False  # As above.


def check_outside_source(place: Place, *, src: str, what: str) -> None:
    """Refuse to make `what` (an archive, a dataset) among the pictures that it is made of.

    Raises:
        UsageError: if `place` is in the source `src`, or the other way round.
    """
    if is_archive(place_of(src)):
        if is_inside(place, place_of(src)):
            raise UsageError(f"{what} {place} is in its own source {src}; name another folder")
        return
    if reads(src, place):
        raise UsageError(
            f"{what} {place} is in the source {src}, where the pictures are; name a folder outside "
            "of it"
        )
    check_not_own_source(place, src=src, what=what)


def check_not_own_source(place: Place, *, src: str, what: str) -> None:
    """Refuse to make `what` (an archive, a dataset) of what is in it already.

    Raises:
        UsageError: if the source `src` is the folder `place` or, where that is there, is in it.
    """
    root = place_of(src)
    if isinstance(root, Path) and not os.path.lexists(src):
        return
    if not is_inside(root, place):
        return
    if is_inside(place, root) or (place / "zarr.json").is_file():
        raise UsageError(f"the source {src} is the {what} {place} or is in it; name another folder")


def reads(src: str, folder: Place) -> bool:
    """Return whether files in `folder` would be among those that are read at `src`.

    A picture or an archive as `src` is one file, whatever is beside it.
    """
    source = place_of(src)
    if isinstance(source, BucketPlace) or isinstance(folder, BucketPlace):
        return isinstance(source, BucketPlace) and _reads_bucket(source, folder)
    if source.is_dir():
        if is_inside(folder, source):
            return True
        # An archive holds no folders of pictures, and no links to some.
        return not is_archive(source) and any(True for _ in ways_below(folder, source))
    if os.path.lexists(src) or not glob.has_magic(src):
        return False
    root, pattern = _split(src)

    def enter(below: Path) -> bool:
        return _may_match(pattern, below.parts)

    return any(enter(way) for way in ways_below(folder, root, enter))


def _reads_bucket(source: BucketPlace, folder: Place) -> bool:
    """Return whether objects in `folder` would be among those that `source` stands for."""
    root, pattern = split(source)
    if not isinstance(folder, BucketPlace) or not folder.is_relative_to(root):
        return False
    below = folder.key[len(root.key) :].strip("/")
    return _may_match(pattern, below.split("/") if below else ())


def _split(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that a glob begins at, and the parts that are to match below it."""
    parts = Path(os.path.abspath(pattern)).parts  # noqa: PTH100 - a link keeps its name.
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]), parts[fixed:]


def _may_match(pattern: Sequence[str], folders: Sequence[str]) -> bool:
    """Return whether a pattern may match a file below `folders`, its own folder being "."."""
    if not pattern:
        return True  # A folder that matches is read whole.
    if not folders:
        return True
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return _may_match(pattern, folders[1:]) or _may_match(rest, folders)
    # In any case: to refuse a folder that is not read does no harm.
    alike = fnmatch.fnmatchcase(folders[0].casefold(), first.casefold())
    return alike and _may_match(rest, folders[1:])


def _shared_files(src: str, out_dir: Place) -> Iterator[Path]:
    """Yield the files of a source that are in `out_dir` under the name that they are read by."""
    if is_address(src) or isinstance(out_dir, BucketPlace):
        return
    source = Path(src)
    if source.is_file() and source.suffix.lower() in EXTENSIONS:
        if Identity.of(source) == Identity.of(out_dir / source.name):
            yield source
        return
    if not os.path.lexists(src) and not glob.has_magic(src):
        return
    root, pattern = (source, ("**",)) if os.path.lexists(src) else _split(src)
    if not root.is_dir() or is_archive(root) or not out_dir.is_dir():
        return
    for folder in folders_below(root, lambda below: _may_match(pattern, below.parts)):
        yield from _same_names(folder.path, out_dir / folder.path.relative_to(root))


def _same_names(folder: Path, other: Path) -> Iterator[Path]:
    """Yield the files of `folder` that are those of the same name in `other`."""
    try:
        with os.scandir(other) as entries:
            inodes = {entry.name: entry.inode() for entry in entries}
        with os.scandir(folder) as entries:
            alike = [e.name for e in entries if inodes.get(e.name) == e.inode() and e.is_file()]
    except OSError:
        return
    for name in alike:
        if Identity.of(folder / name) == Identity.of(other / name):
            yield folder / name
