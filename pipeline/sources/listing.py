"""What is at a source: a picture file, a folder, a glob, a zip or a tar archive.

What belongs here: listing files (`source_file`) with stable ids (`item_names`). Not: what their
bytes mean (`pictures`), nor which names are not pictures (`kinds`). Everything that could be a
picture is listed, so that nothing is lost in silence: a text called ``a.jpg`` is rejected later,
with its reason. What is left out is counted in the `Listing`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from pipeline.errors import NoSourceError, NoStoreError, SourceError, StoreError
from pipeline.pictures.kinds import is_readable_name, unreadable, verdict
from pipeline.pictures.signatures import HEAD_BYTES
from pipeline.sources.buckets import BucketFiles
from pipeline.sources.folders import Found, Walk
from pipeline.sources.globs import Pattern, is_glob
from pipeline.sources.item_names import item_of, member_item, reason_of, shown_path
from pipeline.sources.left_out import LeftOut
from pipeline.sources.packed import Container, Packed, container_at
from pipeline.sources.source_file import SourceFile
from pipeline.sources.zip_names import ZipNames, check_encoding
from pipeline.storage.stamps import stamp_of
from pipeline.storage.store import BucketPlace, check_stores, is_address, place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pipeline.storage.store import Place

T = TypeVar("T")

EMPTY_SOURCE = "the source is empty, expected a file, folder or glob"


@dataclass(frozen=True, slots=True)
class Listing(Sequence[T], Generic[T]):
    """What was listed, in order, and what was not.

    `notes` are lines for the user about the listing as a whole.
    """

    files: tuple[T, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Return one of the files, or some."""
        return self.files[index]

    def __len__(self) -> int:
        """Return how many are listed."""
        return len(self.files)

    def remarks(self) -> list[str]:
        """Return what was left out and the notes, as lines."""
        return [*([str(self.left_out)] if self.left_out else []), *self.notes]


def list_source(src: str, *, names: str = "", skip: Place | None = None) -> Listing[SourceFile]:
    """Return every file at `src`, sorted by item, each item once; the same files, the same list.

    `src` is a file (its item is its name), a folder of any depth, a glob (`globs`; items are
    relative to the part before the first wildcard; folders that match are listed whole), or a zip
    or tar archive by its content or name (.zip, .cbz, .tar, .cbt, .tar.gz, ...). A path that exists
    is never taken for a glob. In a bucket (``s3://...``) it is an object, a prefix or a glob.

    Links are followed: to files wherever they lead, to folders once, as `Walk` says. Left out, and
    counted, are litter, sidecars and what else `kinds` names, and the Zarr stores and jobs of
    upres: a job may be beside its pictures. `src` itself is never litter.

    `names` is the encoding of names in an archive that do not say theirs. `skip` is a folder that
    is left out wherever a link or a glob leads to it: the one that pictures are exported to.

    Raises:
        NoSourceError: There is nothing at `src`.
        SourceError: There is nothing in it, or it cannot be listed.
        UsageError: `names` is not an encoding of file names.
    """
    if names:
        check_encoding(names)
    if not src:
        raise NoSourceError(EMPTY_SOURCE)
    try:
        place = place_of(src)
    except NoStoreError as error:
        raise NoSourceError(str(error)) from error
    listing = _Lister(ZipNames(names), skip)
    try:
        if isinstance(place, BucketPlace):
            found = _unique(BucketFiles(place, listing.left_out, skip).files())
        else:
            # An address must mean the same file in every working directory, a worker's too.
            # Not resolve(): the name of a link is the name that the user chose.
            found = _unique(listing.files(os.path.abspath(src)))  # noqa: PTH100
    except (SourceError, StoreError):
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte.
        raise SourceError(f"{shown_path(src)} cannot be listed ({reason_of(error)})") from error
    if not found:
        held = f" pictures ({listing.left_out})" if listing.left_out else " files"
        raise SourceError(
            f"{shown_path(src)} holds no{held}, expected at least one; is the path right, and "
            "mounted?"
        )
    unused = [
        f"--names {names} has no effect on {shown_path(src)}, which is not a zip or tar archive"
    ]
    packed = any(file.member is not None for file in found)
    notes = unused if names and not packed else listing.names.notes()
    return Listing(tuple(found), listing.left_out, tuple(notes))


def check_source(src: str, *, names: str = "") -> None:
    """Make sure that something is at `src`, without listing it.

    Raises:
        NoSourceError: There is nothing, and it is not a glob.
        UsageError: `names` is not an encoding of file names.
    """
    if names:
        check_encoding(names)
    if is_address(src):
        check_stores(src)
        if not is_glob(src) and not place_of(src).exists():
            list_source(src)
    elif not os.path.lexists(src) and not is_glob(src):
        list_source(src)


def check_same_source(src: str, items: Iterable[str], before: Collection[str]) -> None:
    """Refuse a source that holds none of the items of `before`: a disk may not be mounted.

    Raises:
        SourceError: then; for else all of them would count as gone.
    """
    if before and set(before).isdisjoint(items):
        raise SourceError(
            f"{src} holds none of the {len(before)} pictures that came from it before, such as "
            f"{min(before)}; is it the right folder, and mounted, and --names what it was? for "
            "other pictures use another job, archive or dataset"
        )


def _unique(found: Iterable[SourceFile]) -> list[SourceFile]:
    """Sort, and keep the last of equal items, as tar does; a refused one never hides another."""
    files: dict[str, SourceFile] = {}
    for file in found:
        if file.refused is None or file.item not in files:
            files[file.item] = file
    return [files[item] for item in sorted(files)]


@dataclass(slots=True)
class _Lister:
    """One listing on its way: files come out, the rest is counted."""

    names: ZipNames
    skip: Place | None
    left_out: LeftOut = field(default_factory=LeftOut)

    def files(self, src: str) -> Iterable[SourceFile]:
        path = Path(src)
        if path.is_dir():
            return self._below(src, Pattern())
        if path.is_file():
            container = None if is_readable_name(path.name) else _container(path)
            return [self._single(path)] if container is None else self._packed(container)
        if path.exists():
            raise NoSourceError(f"{shown_path(src)} is not a file or folder; give one of these")
        if is_glob(src):
            return self._matching(src)
        raise NoSourceError(
            f"{shown_path(src)} does not exist, expected a file, folder or glob; check the path"
        )

    def _single(self, path: Path) -> SourceFile:
        """Return the file that the user named: it is never left out."""
        found = Found.at(str(path), path.name)
        head = found.head()
        seen = verdict(path.name, head)
        unread = unreadable(path.name, head or b"") if seen.why else seen.unread
        return _listed(found, unread)

    def _below(self, folder: str, pattern: Pattern) -> Iterator[SourceFile]:
        skip = self.skip if isinstance(self.skip, Path) else None
        for found in Walk(folder, pattern, self.left_out, skip=skip).found():
            if found.refused:
                yield _refuse(found)
                continue
            name = found.relative.rpartition("/")[2]
            seen = verdict(name, None if is_readable_name(name) else found.head())
            if seen.why:
                self.left_out.add(seen.why, seen.label)
            else:
                yield _listed(found, seen.unread)

    def _matching(self, pattern: str) -> list[SourceFile]:
        parts = Path(pattern).parts
        fixed = next(at for at, part in enumerate(parts) if is_glob(part))
        base = Path(*parts[:fixed])
        if not base.is_dir():
            raise NoSourceError(
                f"{shown_path(str(base))} is not a folder, expected one that {shown_path(pattern)} "
                "is in"
            )
        found = list(self._below(str(base), Pattern(parts[fixed:])))
        if not found and not self.left_out:
            raise NoSourceError(
                f"{shown_path(pattern)} matches no file; check it, or quote it for the shell"
            )
        return found

    def _packed(self, container: Container) -> Iterator[SourceFile]:
        path, facts = container.path, container.path.stat()
        try:
            for packed in container.files(self.names):
                named = member_item(packed.name, str(path), self.left_out)
                unread = "" if named is None else self._unread(packed)
                if named is None or unread is None:
                    continue
                yield SourceFile(
                    item=named[0],
                    address=str(path),
                    size_bytes=packed.size_bytes,
                    mtime_ns=facts.st_mtime_ns,
                    member=packed.member,
                    archive_bytes=facts.st_size,
                    refused=named[1] or packed.refused,
                    unread=unread or None,
                    modified_ns=packed.modified_ns,
                    # Under another --names, another member may have the name.
                    etag=f"{stamp_of(facts)}/{packed.member.offset:x}",
                )
        except SourceError as error:
            raise SourceError(f"{shown_path(str(path))} {error}") from error

    def _unread(self, packed: Packed) -> str | None:
        """Return why a member is not read, "" if it is; count it and return None if left out."""
        name = packed.name.rpartition("/")[2]
        known = packed.refused is not None or is_readable_name(name)
        seen = verdict(name, None if known else packed.look())
        if seen.why:
            self.left_out.add(seen.why, seen.label)
        return None if seen.why else seen.unread


def _container(path: Path) -> Container | None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        return container_at(path, head)
    except SourceError as error:
        raise SourceError(f"{shown_path(str(path))} {error}") from None


def _listed(found: Found, unread: str) -> SourceFile:
    return SourceFile(
        item=item_of(found.relative),
        address=found.path,
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        unread=unread or None,
        etag=found.stamp,
    )


def _refuse(found: Found) -> SourceFile:
    item = item_of(found.relative)
    return SourceFile(
        item=item, address=found.path, size_bytes=0, mtime_ns=0, refused=found.refused
    )
