"""Stacking: which small pictures go into which chunks of stacks, and what leaves them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pipeline.geometry import cuts
from pipeline.jobs.ingest.task import PackTask
from pipeline.storage.ledger import INGESTED
from pipeline.storage.stack_index import discard_broken
from pipeline.storage.stack_kind import LEAST_MEMBERS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipeline.jobs.ingest.task import Ingested
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow
    from pipeline.storage.stack_index import Member


def tidy(archive: Archive) -> Mapping[str, Member]:
    """Return where items are in stacks, once what an interruption or a fault left is removed."""
    index = archive.index()
    discard_broken(archive.path, index.broken)
    _drop(archive, (member for _, member in index.outdated))
    return index.members


def sound_members(archive: Archive, members: Mapping[str, Member]) -> dict[str, Member]:
    """Return those of the members of all stacks whose arrays and pixels are there."""
    stacks = {stack: archive.stack(stack) for stack in archive.stacks()}
    chunks = {(s, n) for s, stack in stacks.items() for n in stack.numbers() if stack.has_pixels(n)}
    return {item: m for item, m in members.items() if (m.stack, m.chunk) in chunks}


def leave_holes(archive: Archive, before: Mapping[str, Member], rows: Iterable[ItemRow]) -> None:
    """Leave holes where items were that are in other places now, or images of their own."""
    now = archive.index()
    present = {*now.members.items(), *now.outdated}
    moved = []
    for row in rows:
        member = before.get(row.item)
        # In a stack that was made again, others are at the same places.
        if member is None or row.state != INGESTED or (row.item, member) not in present:
            continue
        if (row.stack, row.chunk, row.place) != (member.stack, member.chunk, member.place):
            moved.append(member)
    _drop(archive, moved)


def _drop(archive: Archive, members: Iterable[Member]) -> None:
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for member in members:
        places[member.stack, member.chunk].append(member.place)
    for (stack, chunk), gone in places.items():
        if archive.has_stack(stack):
            archive.stack(stack).drop(chunk, gone)


def share_out(
    waiting: Iterable[Ingested], archive: Archive
) -> tuple[list[SourceFile], list[PackTask]]:
    """Return the files that stay alone, and the chunks that the others make up.

    New chunks only: those that are there are not touched.
    """
    kinds: dict[Kind, list[Ingested]] = defaultdict(list)
    for one in waiting:
        kinds[one.kind].append(one)
    alone: list[SourceFile] = []
    chunks: list[PackTask] = []
    for kind, files in sorted(kinds.items(), key=lambda pair: pair[0]):
        is_there = archive.has_stack(kind.stack)
        if len(files) < LEAST_MEMBERS and not is_there:
            alone += (one.file for one in files)
            continue
        chunks += _chunks(kind, sorted(files, key=lambda one: one.file.item), archive)
    return sorted(alone, key=lambda file: file.item), chunks


def _chunks(kind: Kind, files: Sequence[Ingested], archive: Archive) -> Iterator[PackTask]:
    """Yield the new chunks of a stack; none mixes worn pictures with others: it has one model."""
    if archive.has_stack(kind.stack):
        stack = archive.stack(kind.stack)
        first = max(stack.numbers(), default=-1) + 1
    else:
        size = kind.chunk_members
        stack = archive.create_stack(kind.stack, kind, chunk_members=size, chunks=0)
        first = 0
    alike = [[one for one in files if one.worn is worn] for worn in (False, True)]
    groups = [
        part[group.index]
        for part in alike
        if part
        for group in cuts(len(part), stack.chunk_members)
    ]
    stack.grow(first + len(groups))
    for chunk, group in enumerate(groups, first):
        seen = {one.row.sha256: one.traces for one in group if one.traces is not None}
        inside = tuple(one.file for one in group)
        yield PackTask(kind.stack, chunk, inside, archive.path, seen)
