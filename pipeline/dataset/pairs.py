"""Which LR file belongs to which HR file, by their names and folders alone.

Data sets have their habits: ``0001.png`` with ``0001x4.png`` (DIV2K; ``0001x4m.png`` for its harder
tracks) or ``0001.png`` in another folder, ``baby_HR_x4.png`` with ``baby_LRBI_x4.png``,
``Canon_001_HR.png`` with ``Canon_001_LR4.png``. Nothing is guessed: where names do not say whose an
LR file is, nobody gets it, and the reason names all who could. Pixels are for
`pipeline.dataset.likeness`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.pictures.formats import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.sources.source_file import SourceFile

_HR = re.compile(r"(.+)[_-](?:hr|gt)(?:[_-]?x?\d)?|(.+?)[_-]?x1")
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Pairing:
    """The LR file of each HR item that has one, and why others have none, where names are open."""

    partners: Mapping[str, SourceFile] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Edge:
    """An LR file that an HR file may belong to."""

    hr: SourceFile
    lr: SourceFile
    far: tuple[int, int, int]
    """How unlike their places are; a text beside pictures is nobody's."""
    odd: tuple[int, int]
    """How unlike their names are: cases that differ, and a mark that was taken off HR's."""
    plain: int
    """0 for a name that says its scale, 1 for one that is HR's own."""


def paired(files: Sequence[SourceFile], lr_files: Iterable[SourceFile], scale: int) -> Pairing:
    """Return which LR file each HR file has.

    LR of ``b`` is called ``b``, ``bx4`` (at scale 4; ``b_x4`` and ``b-x4`` too) or ``bx4`` and up
    to two more letters or digits, or with marks: ``b_HR`` and ``b_LR``, ``b_LR4``, ``b_LRBI_x4``.
    Letters match in any case, but files of the same case are preferred. The folder may be any;
    where several have one, the folder most like HR's counts. No LR file is that of two HR files.
    """
    edges = _nearest(_edges(files, lr_files, scale))
    partners: dict[str, SourceFile] = {}
    doubts: dict[str, str] = {}
    while edges:
        # Who has one candidate alone takes it, which may leave others with one; then preferences.
        open_to = _by_hr(edges)
        sure = [found[0] for found in open_to.values() if len(found) == 1]
        chosen = sure or [edge for found in open_to.values() if (edge := _preferred(found))]
        if not chosen:
            doubts |= {hr: _torn(found) for hr, found in open_to.items()}
            break
        claims: dict[str, list[_Edge]] = defaultdict(list)
        for edge in chosen:
            claims[edge.lr.item].append(edge)
        settled = set()
        for claimed in claims.values():
            if len(claimed) == 1:
                partners[claimed[0].hr.item] = claimed[0].lr
            else:
                doubts |= {edge.hr.item: _contested(claimed) for edge in claimed}
            settled |= {edge.hr.item for edge in claimed}
        edges = [e for e in edges if e.hr.item not in settled and e.lr.item not in claims]
    return Pairing(partners, doubts)


def _edges(files: Iterable[SourceFile], lr_files: Iterable[SourceFile], scale: int) -> list[_Edge]:
    by_name: dict[str, list[tuple[SourceFile, int]]] = defaultdict(list)
    for file in lr_files:
        for name, plain in _lr_names(_stem(file), scale).items():
            by_name[name].append((file, plain))
    return [
        _Edge(hr, lr, _distance(hr, lr), (_cases(hr, lr, name), marked), plain)
        for hr in files
        for name, marked in _hr_names(_stem(hr)).items()
        for lr, plain in by_name.get(name, ())
        # In a folder of both, a picture is not its own reduced version.
        if scale == 1 or hr.address != lr.address
    ]


def _stem(file: SourceFile) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(file.item).stem).casefold()


def _hr_names(stem: str) -> dict[str, int]:
    """Return what an HR file may be called by, with 1 where a mark was taken off."""
    match = _HR.fullmatch(stem)
    return {stem: 0} | ({match[1] or match[2]: 1} if match else {})


def _lr_names(stem: str, scale: int) -> dict[str, int]:
    """Return the names of HR files that an LR file may belong to, with 1 for its very own name."""
    found = {stem: 1}
    # Greedy: of index4x4 the suffix is the last x4, not the first, which would leave inde.
    suffixed = re.fullmatch(rf"(.+?)[_-]?x{scale}|(.+)x{scale}[a-z0-9]{{0,2}}", stem, re.ASCII)
    if suffixed:
        found[suffixed[1] or suffixed[2]] = 0
    marked = re.fullmatch(rf"(.+)[_-]lr[a-z]{{0,2}}(?:[_-]?x?{scale})?", stem, re.ASCII)
    if marked:
        found[marked[1]] = 0
    return found


def _distance(hr: SourceFile, lr: SourceFile) -> tuple[int, int, int]:
    one, other = PurePosixPath(hr.item), PurePosixPath(lr.item)
    texts = sum(path.suffix.lower() not in EXTENSIONS for path in (one, other))
    mine, theirs = set(one.parent.parts), set(other.parent.parts)
    return texts, -len(mine & theirs), len(mine ^ theirs)


def _cases(hr: SourceFile, lr: SourceFile, name: str) -> int:
    """Return 0 where both files write the name that they share alike, 1 in another form, else 2."""
    stems = [PurePosixPath(f.item).stem for f in (hr, lr)]
    if len({unicodedata.normalize("NFC", stem)[: len(name)] for stem in stems}) > 1:
        return 2
    return int(len({unicodedata.is_normalized("NFC", stem) for stem in stems}) > 1)


def _nearest(edges: Sequence[_Edge]) -> list[_Edge]:
    """Return, for each HR file, those in the nearest place; then the same for each LR file."""
    for of in ("hr", "lr"):
        best: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for edge in edges:
            item, rank = getattr(edge, of).item, (edge.far, edge.odd)
            best[item] = min(best.get(item, rank), rank)
        edges = [e for e in edges if (e.far, e.odd) == best[getattr(e, of).item]]
    return list(edges)


def _by_hr(edges: Iterable[_Edge]) -> dict[str, list[_Edge]]:
    found: dict[str, list[_Edge]] = defaultdict(list)
    for edge in edges:
        found[edge.hr.item].append(edge)
    return found


def _preferred(edges: Sequence[_Edge]) -> _Edge | None:
    """Return the candidate whose name says its scale, and whose extension is HR's, if it is one."""

    def rank(edge: _Edge) -> tuple[int, bool]:
        own, other = (PurePosixPath(f.item).suffix.lower() for f in (edge.hr, edge.lr))
        return edge.plain, own != other

    best, second, *_ = sorted(edges, key=rank)
    return best if rank(best) < rank(second) else None


def _torn(edges: Sequence[_Edge]) -> str:
    names = _listed(edge.lr.item for edge in edges)
    return f"{edges[0].hr.item} could have {names}; leave one of them in the LR pictures"


def _contested(edges: Sequence[_Edge]) -> str:
    names = _listed(edge.hr.item for edge in edges)
    return (
        f"{edges[0].lr.item} could be of {names}; name it after one of them, or put it into a "
        "folder called as that one's"
    )


def _listed(items: Iterable[str]) -> str:
    names = sorted(items)
    more = f" or {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return " or ".join(names[:_MOST_NAMED]) + more
