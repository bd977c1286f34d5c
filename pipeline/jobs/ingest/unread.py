"""Files of a source that need not be read: neither they nor what the archive has of them changed.

What tells are stamps (`pipeline.storage.stamps`): nothing is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.storage.item_paths import item_path
from pipeline.storage.ledger import INGESTED, LR, ObjectRow, SealRow
from pipeline.storage.stamps import is_settled, seal_of
from pipeline.storage.store import is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.jobs.ingest.task import Ingested
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.ledger import ItemRow, Ledger
    from pipeline.storage.stack_index import Member
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True)
class LastReading:
    """What is known of the files of a source since they were read last."""

    known: Mapping[str, ItemRow]
    objects: Mapping[str, ObjectRow]
    """What was read, of items that the ledger still records with that content."""
    seals: Mapping[str, SealRow]
    members: Mapping[str, Member]
    """Where items are in sound chunks of stacks."""
    archive_dir: Place

    @classmethod
    def of(
        cls,
        known: Mapping[str, ItemRow],
        ledger: Ledger,
        *,
        members: Mapping[str, Member],
        archive_dir: Place,
    ) -> LastReading:
        """Return what the ledger knows."""
        objects = {
            item: row
            for item, row in ledger.objects().items()
            if item in known and (known[item].state, known[item].sha256) == (INGESTED, row.sha256)
        }
        return cls(known, objects, ledger.seals(LR), members, archive_dir)

    def row_of(self, file: SourceFile) -> ItemRow | None:
        """Return the row of a file that did not change, and whose item the archive still holds.

        None where that is in doubt.
        """
        seen = self.objects.get(file.item)
        if seen is None or (seen.etag, seen.size_bytes) != (file.etag, file.size_bytes):
            return None
        row = self.known[file.item]
        if not self._holds(row):
            return None
        return row if row.source == file.address else replace(row, source=file.address)

    def _holds(self, row: ItemRow) -> bool:
        member = self.members.get(row.item)
        if row.stack or member is not None:
            place = (row.stack, row.chunk, row.place, row.sha256)
            return member is not None and place == (
                member.stack,
                member.chunk,
                member.place,
                member.sha256,
            )
        seal = self.seals.get(row.item)
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
