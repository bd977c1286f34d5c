"""Manifests: which patches a chunk of a dataset is to hold, and where each of them is from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
"""Names of the splits; the number of a split in a dataset's `split` is its place here."""

NO_PATCH = 255
"""What `split` says of a row that holds no patch: not yet made, or left by a changed picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A picture that patches were cut from."""

    item: str
    sha256: str
    """Of the file, or of the HR and LR files together where they came as pairs."""
    split: str
    """One of `SPLITS`, or "" for a picture that all patches of are left out."""
    licence: str = ""
    copyright: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many of its patches were left out, by reason; said once, with its first patch."""
    colour: str = ""
    """What was done about its ICC profile; "" where there was nothing to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which patches one chunk holds.

    `places` (m,) are their rows, counted from the chunk's first; `pictures` (m,) index `origins`;
    `corners` (m, 2) are top and left of each patch in its picture, in pixels; `seeds` (m,) are what
    its degradations draw from; `hashes` (m,) are their perceptual hashes, or empty.
    """

    origins: tuple[Origin, ...]
    places: NDArray[np.int64]
    pictures: NDArray[np.int64]
    corners: NDArray[np.int64]
    seeds: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def splits(self) -> NDArray[np.uint8]:
        """Return the number of the split of each patch."""
        known = {"": NO_PATCH, **{name: number for number, name in enumerate(SPLITS)}}
        numbers = np.array([known[origin.split] for origin in self.origins], dtype=np.uint8)
        return numbers[self.pictures]

    def without(self, items: frozenset[str]) -> Manifest:
        """Return the same without the patches of `items`; the others keep their places."""
        names = [origin.item for origin in self.origins]
        kept = np.array([names[p] not in items for p in self.pictures], dtype=bool)
        left = [n for n, name in enumerate(names) if name not in items]
        renumbered = np.full(len(names), -1, dtype=np.int64)
        renumbered[left] = np.arange(len(left))
        return Manifest(
            tuple(self.origins[n] for n in left),
            self.places[kept],
            renumbered[self.pictures[kept]],
            self.corners[kept],
            self.seeds[kept],
            self.hashes[kept] if len(self.hashes) else self.hashes,
        )

    def to_json(self) -> bytes:
        """Return it as the bytes of a JSON file, equal bytes for equal manifests."""
        content = {
            "origins": [_values(origin) for origin in self.origins],
            "places": self.places.tolist(),
            "pictures": self.pictures.tolist(),
            "corners": self.corners.tolist(),
            "seeds": self.seeds.tolist(),
            "hashes": [f"{value:016x}" for value in self.hashes.tolist()],
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def identities(self) -> NDArray[np.uint64]:
        """Return a number ``(m,)`` that distinguishes each patch from all others, and is never 0.

        It is of the picture's name and content, the corner, and the seed: all that decides the
        patch in a dataset of one recipe.
        """
        digests = [hashlib.sha256(f"{o.item}\0{o.sha256}".encode()).digest() for o in self.origins]
        numbers = np.array([int.from_bytes(d[:8], "big") for d in digests], dtype=np.uint64)
        mixed = numbers[self.pictures] if len(numbers) else np.zeros(len(self), dtype=np.uint64)
        for column in (self.corners[:, 0], self.corners[:, 1], self.seeds):
            mixed = scrambled(mixed + column.astype(np.uint64) + GOLDEN)
        return np.maximum(mixed, np.uint64(1))

    @classmethod
    def from_json(cls, data: bytes, *, most: int) -> Manifest:
        """Read what `to_json` gave for a chunk of `most` rows.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: if the bytes are anything else.
        """
        content = json.loads(data)
        found = cls(
            tuple(_origin(origin) for origin in content["origins"]),
            np.array(content["places"], dtype=np.int64),
            np.array(content["pictures"], dtype=np.int64),
            np.array(content["corners"], dtype=np.int64).reshape(-1, 2),
            np.array(content["seeds"], dtype=np.int64),
            np.array([int(text, 16) for text in content["hashes"]], dtype=np.uint64),
        )
        lengths = {len(found.places), len(found.pictures), len(found.corners), len(found.seeds)}
        if len(lengths) > 1 or len(found.hashes) not in (0, len(found.places)):
            raise ValueError(f"columns have lengths {sorted(lengths)}, expected one")
        if not np.isin(found.pictures, np.arange(len(found.origins))).all():
            raise ValueError("a patch is of a picture that is not listed")
        if len(np.intersect1d(found.places, np.arange(most))) < len(found):
            raise ValueError(f"places are not {len(found)} different ones of 0 to {most - 1}")
        return found


GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 counts by: the golden ratio as 64 bits."""


def scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers of 64 bits mixed so that each bit depends on all; equal ones stay equal.

    Source: the finaliser of SplitMix64, Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators".
    """
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _values(origin: Origin) -> dict[str, Any]:
    """Return an origin's values; `colour` where it says something, as it is newer than others."""
    values = asdict(origin)
    return values if origin.colour else {k: v for k, v in values.items() if k != "colour"}


def _origin(values: Any) -> Origin:
    """Return an origin of a file's values; ValueError or TypeError if they are none."""
    origin = Origin(**values)
    texts = (
        origin.item, origin.sha256, origin.split, origin.licence, origin.copyright, origin.colour,
    )  # fmt: skip
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"origin {origin.item!r} has a value that is not text")
    if origin.split not in ("", *SPLITS):
        raise ValueError(f"split is {origin.split!r}, expected one of {', '.join(SPLITS)}")
    left_out = origin.left_out
    if not isinstance(left_out, dict) or not all(type(n) is int for n in left_out.values()):
        raise TypeError(f"left_out is {left_out!r}, expected counts by reason")
    return origin
