"""Placement: which rows of a dataset the patches of pictures get, as manifests say it.

Pure: what is there is read, and nothing is written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.dataset.extract import DUPLICATE, seed_of
from pipeline.dataset.licences import licence_of
from pipeline.errors import DatasetError
from pipeline.storage.manifest import Manifest, Origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.dataset.extract import Cut
    from pipeline.dataset.hashes import SeenHashes
    from pipeline.dataset.worker import Surveyed
    from pipeline.recipes.preparing import PrepareRecipe
    from pipeline.storage.dataset import Dataset

NO_ROOM = "no room in any split"
"""Why the patches of a picture are left out where counts say how many each split takes."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What the manifests of a dataset say already.

    `outdated` are, by chunk, items whose patches were cut from an older content than a later
    chunk's: what an interruption left.
    """

    shas: Mapping[str, str]
    splits: Mapping[str, str]
    hashes: Sequence[tuple[str, Any]]
    outdated: Mapping[int, set[str]]

    @classmethod
    def of(cls, dataset: Dataset) -> Placed:
        """Read all manifests."""
        shas: dict[str, str] = {}
        splits: dict[str, str] = {}
        chunks: dict[str, list[int]] = defaultdict(list)
        hashes = []
        outdated: dict[int, set[str]] = defaultdict(set)
        for chunk, manifest in enumerate(dataset.manifests()):
            for number, origin in enumerate(manifest.origins):
                item = origin.item
                if shas.get(item, origin.sha256) != origin.sha256:
                    for older in chunks.pop(item):
                        outdated[older].add(item)
                shas[item] = origin.sha256
                chunks[item].append(chunk)
                if origin.split:
                    splits[item] = origin.split
                if len(manifest.hashes):
                    hashes.append((item, manifest.hashes[manifest.pictures == number]))
        return cls(shas, splits, hashes, outdated)


@dataclass(frozen=True, slots=True)
class Placement:
    """The patches that a picture gets rows for."""

    origin: Origin
    corners: Any
    seeds: Any
    hashes: Any

    @classmethod
    def of(
        cls,
        one: Surveyed,
        splits: Mapping[str, str],
        licences: Mapping[str, str],
        recipe: PrepareRecipe,
    ) -> Placement:
        """Return where the patches of a surveyed picture belong, and why others are left out."""
        found, item = cut_of(one), one.row.item
        split, left_out = splits.get(item, ""), Counter(found.left_out)
        if not split:
            left_out[NO_ROOM] += len(found)
            found = found.kept(np.zeros(len(found), dtype=bool))
        seeds = [seed_of(recipe.seed, item, top, left) for top, left in found.corners.tolist()]
        origin = Origin(
            item=item,
            sha256=one.row.sha256,
            split=split,
            licence=licence_of(item, licences),
            copyright=one.copyright,
            colour=one.colour,
            left_out={reason: n for reason, n in sorted(left_out.items()) if n},
        )
        return cls(origin, found.corners, np.array(seeds, dtype=np.int64), found.hashes)


def manifests(plans: Sequence[Placement], many: int) -> Iterator[Manifest]:
    """Yield what consecutive chunks of `many` patches hold, pictures in their order.

    A picture without patches is named where it would stand.
    """
    waiting: list[tuple[Placement, slice]] = []
    filled = 0
    for plan in plans:
        start = 0
        while True:
            # Only for a patch: a picture without any goes with those before it.
            if filled == many and start < len(plan.corners):
                yield _manifest(waiting)
                waiting, filled = [], 0
            take = min(len(plan.corners) - start, many - filled)
            waiting.append((plan, slice(start, start + take)))
            start, filled = start + take, filled + take
            if start == len(plan.corners):
                break
    if waiting:
        yield _manifest(waiting)


def _manifest(parts: Sequence[tuple[Placement, slice]]) -> Manifest:
    # What was left out of a picture is said once, with its first patch.
    origins = tuple(p.origin if not s.start else replace(p.origin, left_out={}) for p, s in parts)
    counts = [s.stop - s.start for _, s in parts]
    return Manifest(
        origins,
        np.arange(sum(counts), dtype=np.int64),
        np.repeat(np.arange(len(parts), dtype=np.int64), counts),
        np.concatenate([p.corners[s] for p, s in parts]).reshape(-1, 2),
        np.concatenate([p.seeds[s] for p, s in parts]),
        np.concatenate([p.hashes[s] for p, s in parts]),
    )


def distinct(one: Surveyed, seen: SeenHashes) -> Cut:
    """Return the patches of a picture that look like none of those `seen`, which they join."""
    found = cut_of(one)
    kept = np.array([seen.is_new(value) for value in found.hashes.tolist()], dtype=bool)
    left = found.kept(kept)
    left.left_out.update({DUPLICATE: int((~kept).sum())} if not kept.all() else {})
    return left


def cut_of(one: Surveyed) -> Cut:
    """Return the patches that a survey found in a picture.

    Raises:
        DatasetError: if it found out nothing, as they are placed already or the picture is bad.
    """
    if one.cut is None:
        raise DatasetError(f"{one.row.item} was not surveyed; prepare again")
    return one.cut
