"""Pictures in a bucket: what is below a prefix, listed by pages, without a look at what is named.

What belongs here: which objects are files of a source, by their keys. A name that says what the
object is (a picture, a sidecar, a film) is believed, as a look would cost a request; others are
looked into. There are no links, and a folder is there when something is in it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import NoSourceError
from pipeline.pictures.kinds import (
    OURS,
    is_folder_of_upres,
    is_of_upres,
    is_readable_name,
    litter,
    says_what_it_is,
    unreadable,
    verdict,
)
from pipeline.pictures.signatures import HEAD_BYTES, packed
from pipeline.sources.globs import Pattern, is_glob
from pipeline.sources.item_names import item_of, shown_path
from pipeline.sources.source_file import SourceFile
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.sources.left_out import LeftOut
    from pipeline.storage.object_store import Stored
    from pipeline.storage.store import Place

_MARKS = frozenset(("job.json", "zarr.json", ".zgroup", ".zarray", "metrics.csv"))
"""Files by which folders of upres are known, besides others."""


@dataclass(frozen=True, slots=True)
class BucketFiles:
    """The files of a source that is in a bucket."""

    place: BucketPlace
    left_out: LeftOut
    skip: Place | None = None

    def files(self) -> list[SourceFile]:
        """Return the object at the place, all below it, or all that it matches as a glob.

        Raises:
            NoSourceError: if there is nothing, or a zip or tar archive.
            StoreError: if it cannot be listed.
        """
        facts = self.place.facts()
        if facts is not None:
            return [self._single(facts)]
        objects = list(self.place.below())
        if objects:
            return list(self._below(self.place, objects, Pattern()))
        if not is_glob(self.place.key):
            raise NoSourceError(
                f"{shown_path(str(self.place))} does not exist, expected an object, a prefix or a "
                "glob; check the address"
            )
        base, parts = split(self.place)
        found = list(self._below(base, list(base.below()), Pattern(parts)))
        if not found and not self.left_out:
            raise NoSourceError(
                f"{shown_path(str(self.place))} matches no object; check it, or quote it for the "
                "shell"
            )
        return found

    def _single(self, facts: Stored) -> SourceFile:
        """Return the object that the user named: it is never left out."""
        name = self.place.name
        head = None if is_readable_name(name) else _head(self.place, facts)
        if head is not None and packed(head):
            raise NoSourceError(
                f"{shown_path(str(self.place))} is {packed(head)} in a bucket, expected pictures; "
                "copy it to a local disk and give that, or unpack it into the bucket"
            )
        seen = verdict(name, head)
        unread = unreadable(name, head or b"") if seen.why else seen.unread
        return _listed(self.place, name, facts, unread)

    def _below(
        self, root: BucketPlace, objects: Sequence[Stored], pattern: Pattern
    ) -> Iterator[SourceFile]:
        start = len(root.key) + 1 if root.key else 0
        ours = self._ours(root, [one.key[start:] for one in objects])
        for one in objects:
            relative = one.key[start:]
            if self._passes(root, relative, pattern, ours):
                yield from self._seen(root / relative, relative, one)

    def _seen(self, place: BucketPlace, relative: str, facts: Stored) -> Iterator[SourceFile]:
        """Yield an object, or count it where it is not a picture."""
        name = place.name
        seen = verdict(name, None if says_what_it_is(name) else _head(place, facts))
        if seen.why:
            self.left_out.add(seen.why, seen.label)
        else:
            yield _listed(place, relative, facts, seen.unread)

    def _passes(
        self, root: BucketPlace, relative: str, pattern: Pattern, ours: frozenset[str]
    ) -> bool:
        """Return whether an object is asked for; count it where it is left out by its names."""
        *folders, name = relative.split("/")
        positions = pattern.start()
        for depth, folder in enumerate(folders, 1):
            spelled = pattern.spells(positions, folder)
            positions = pattern.into(positions, folder)
            at = "/".join(folders[:depth])
            if not positions or at in ours or self._is_skipped(root / at):
                return False
            if not spelled and self._is_litter(folder):
                return False
        if not pattern.takes(positions, name):
            return False
        if is_of_upres(name):
            self.left_out.add(OURS, relative)
            return False
        return pattern.spells(positions, name) or not self._is_litter(name)

    def _is_litter(self, name: str) -> bool:
        out = litter(name)
        if out is not None:
            self.left_out.add(out.why, out.label)
        return out is not None

    def _is_skipped(self, folder: BucketPlace) -> bool:
        return folder == self.skip

    def _ours(self, root: BucketPlace, relatives: Sequence[str]) -> frozenset[str]:
        """Return the folders, below the root, of archives, jobs and trainings; count them."""
        marked = {r.rpartition("/")[0] for r in relatives if r.rpartition("/")[2] in _MARKS}
        names: dict[str, set[str]] = defaultdict(set)
        for relative in relatives:
            folder, _, name = relative.rpartition("/")
            if folder in marked:
                names[folder].add(name)
        found: set[str] = set()
        for folder in sorted(names):
            inside = any(folder.startswith(f"{outer}/") for outer in found)
            if folder and not inside and _is_ours(root / folder, names[folder]):
                found.add(folder)
                self.left_out.add(OURS, folder)
        return frozenset(found)


def split(place: BucketPlace) -> tuple[BucketPlace, tuple[str, ...]]:
    """Return the place that a glob begins at, and the parts that are to match below it."""
    parts = tuple(place.key.split("/"))
    fixed = next((at for at, part in enumerate(parts) if is_glob(part)), len(parts))
    return BucketPlace(place.scheme, place.bucket, "/".join(parts[:fixed])), parts[fixed:]


def _is_ours(folder: BucketPlace, names: set[str]) -> bool:
    if is_folder_of_upres(names):
        return True
    if "job.json" not in names:
        return False
    # The lock by which a job on a disk is known is elsewhere.
    try:
        values = json.loads((folder / "job.json").read_bytes())
    except (ValueError, FileNotFoundError):
        return False
    return isinstance(values, dict) and {"id", "source", "ledger"} <= values.keys()


def _head(place: BucketPlace, facts: Stored) -> bytes:
    """Return the first bytes of an object."""
    return place.of_bucket.get_head(place.key, min(HEAD_BYTES, facts.size_bytes))


def _listed(place: BucketPlace, relative: str, facts: Stored, unread: str) -> SourceFile:
    return SourceFile(
        item=item_of(relative),
        address=str(place),
        size_bytes=facts.size_bytes,
        mtime_ns=facts.mtime_ns,
        etag=facts.etag,
        unread=unread or None,
    )
