"""Stacking: which small pictures go into which chunks of stacks, and what leaves them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pipeline.geometry import cuts
from pipeline.jobs.ingest.task import PackTask
from pipeline.storage.ledger import INGESTED
from pipeline.storage.stack_index import discard_broken
from pipeline.storage.stack_kind import BOX_STEPS_PX, LEAST_MEMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipeline.jobs.ingest.task import Ingested
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow
    from pipeline.storage.stack_index import Member
    from pipeline.storage.stack_kind import Kind


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
            archive.stack(stack).empty(chunk, gone)


def whole_chunks(
    waiting: Iterable[Ingested], archive: Archive
) -> tuple[list[Ingested], list[PackTask]]:
    """Return the pictures that go on waiting, and the chunks of one size that others fill.

    Whatever is listed after these pictures, `share_out` would put them into the same chunks.
    """
    kinds: dict[Kind, list[Ingested]] = defaultdict(list)
    for one in sorted(waiting, key=lambda one: one.file.item):
        kinds[one.kind].append(one)
    left: list[Ingested] = []
    chunks: list[PackTask] = []
    for kind in sorted(kinds):
        full, rest = _full(kinds[kind], kind.chunk_members)
        if full and _fill_stack(kind, full, archive):
            left += rest
            chunks += _chunks(kind, full, archive)
        else:
            left += kinds[kind]
    return left, chunks


def _full(files: Sequence[Ingested], members: int) -> tuple[list[Ingested], list[Ingested]]:
    """Return those of `files` that fill chunks, worn and other ones apart, and the rest."""
    full, rest = [], []
    for worn in (False, True):
        alike = [one for one in files if one.worn is worn]
        many = len(alike) // members * members
        full += alike[:many]
        rest += alike[many:]
    return full, rest


def share_out(
    waiting: Iterable[Ingested], archive: Archive
) -> tuple[list[SourceFile], list[PackTask]]:
    """Return the files that stay alone, and the chunks that the others make up.

    Pictures of one size have a stack of their own if they are many, the others share one with
    pictures that fit into the same small box, or at last into a large one. New chunks only: those
    that are there are not touched.
    """
    left = sorted(waiting, key=lambda one: one.file.item)
    stacked: dict[Kind, list[Ingested]] = {}
    for step_px in BOX_STEPS_PX:
        kinds: dict[Kind, list[Ingested]] = defaultdict(list)
        for one in left:
            if kind := one.kind.boxed(step_px):
                kinds[kind].append(one)
        # A box can be a multiple of two steps: what fits into it by either makes up its chunks.
        for kind, files in kinds.items():
            if kind in stacked or _fill_stack(kind, files, archive):
                stacked[kind] = stacked.get(kind, []) + files
        left = [one for one in left if one.kind.boxed(step_px) not in stacked]
    chunks = [
        chunk
        for kind in sorted(stacked)
        for chunk in _chunks(kind, sorted(stacked[kind], key=lambda one: one.file.item), archive)
    ]
    return [one.file for one in left], chunks


def _fill_stack(kind: Kind, files: Sequence[Ingested], archive: Archive) -> bool:
    """Return whether files go into a stack: there is one, or they are enough to make one."""
    return len(files) >= LEAST_MEMBERS or archive.has_stack(kind.stack)


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
        yield PackTask(kind.stack, chunk, tuple(group), archive.path)
