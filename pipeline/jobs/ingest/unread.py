"""Files of a source that need not be read: neither they nor what the archive has of them changed.

What tells are stamps (`pipeline.storage.stamps`): nothing is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.storage.item_paths import item_path
from pipeline.storage.ledger import INGESTED, LR, ObjectRow, SealRow, says
from pipeline.storage.stamps import is_settled, seal_of
from pipeline.storage.store import is_address

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from pipeline.jobs.ingest.task import Ingested
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.ledger import ItemRow, Ledger, LetGoRow
    from pipeline.storage.stack_index import Member
    from pipeline.storage.store import Place


_AT_ONCE = 2_000
"""How many files are looked up in the ledger at once."""


@dataclass(frozen=True, slots=True)
class LastReading:
    """What is known of the files of a source since they were read last."""

    known: Mapping[str, ItemRow]
    ledger: Ledger
    members: Mapping[str, Member]
    """Where items are in sound chunks of stacks."""
    archive_dir: Place
    again: Collection[str] = ()
    """Items that are read again, whatever is known of them."""

    def rows_of(
        self, files: Iterable[SourceFile]
    ) -> Iterator[tuple[SourceFile, ObjectRow | None, ItemRow | None]]:
        """Yield each file, what was read of it if it did not change, and its row.

        The row is None too where it is in doubt that the archive still holds the item.
        """
        waiting = iter(files)
        while few := list(islice(waiting, _AT_ONCE)):
            items = [file.item for file in few]
            objects = self.ledger.objects_of(items)
            seals = self.ledger.seals_of(LR, items)
            gone = self.ledger.let_go_of(LR, items)
            for file in few:
                seen = self._seen(file, objects.get(file.item))
                row = None
                if seen is not None and file.item not in self.again:
                    row = self._row(file, seals.get(file.item), gone)
                yield file, seen, row

    def _seen(self, file: SourceFile, seen: ObjectRow | None) -> ObjectRow | None:
        """Return what was read of a file if neither it nor what the ledger says of it changed."""
        row = self.known.get(file.item)
        if seen is None or row is None or row.state != INGESTED:
            return None
        same = (seen.etag, seen.size_bytes, seen.sha256) == (
            file.etag,
            file.size_bytes,
            row.sha256,
        )
        return seen if same else None

    def _row(
        self, file: SourceFile, seal: SealRow | None, gone: Mapping[str, LetGoRow]
    ) -> ItemRow | None:
        """Return the row of a file that did not change, if its item is held or was let go."""
        row = self.known[file.item]
        if not (says(gone, row.item) == row.sha256 or self._holds(row, seal)):
            return None
        return row if row.source == file.address else replace(row, source=file.address)

    def _holds(self, row: ItemRow, seal: SealRow | None) -> bool:
        member = self.members.get(row.item)
        if row.stack or member is not None:
            place = (row.stack, row.chunk, row.place, row.sha256)
            return member is not None and place == (
                member.stack,
                member.chunk,
                member.place,
                member.sha256,
            )
        if seal is None or seal.says != row.sha256:
            return False
        return seal.stamp == seal_of(self.archive_dir, item_path(row.item))


def objects_of(results: Iterable[Ingested], *, listed_ns: int) -> Iterator[ObjectRow]:
    """Yield what was read, of files that the next run knows again; they were listed then."""
    for one in results:
        file, row = one.file, one.row
        if not (file.etag and row.state == INGESTED and row.sha256):
            continue
        if is_address(file.address) or is_settled(file.etag, seen_ns=listed_ns):
            yield ObjectRow(
                item=file.item, etag=file.etag, size_bytes=file.size_bytes, sha256=row.sha256
            )


def seals_of(results: Iterable[Ingested]) -> Iterator[SealRow]:
    """Yield the seals of the images that were written or looked at."""
    for one in results:
        if one.seal:
            yield SealRow(archive=LR, item=one.row.item, stamp=one.seal, says=one.row.sha256)
