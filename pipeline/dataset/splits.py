"""Splits: which pictures train, which validate, and which are kept for the test.

By picture, never by patch: patches of one picture look alike, and a network that trained on some
would be tested on what it has seen.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dataset.extract import seed_of
from pipeline.errors import RecipeError
from pipeline.storage.manifest import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TRAIN, *HELD_OUT = SPLITS

_ROUNDING = 1e-9
"""0.33 + 0.56 + 0.11 is a little more than 1, and 0.7 + 0.2 + 0.1 a little less."""


def check_split(wanted: Mapping[str, Any], *, group: str = "") -> None:
    """Make sure that a split can be read: fractions or counts, and globs or files of names.

    Raises:
        RecipeError: if not.
    """
    for name in wanted:
        if name not in SPLITS:
            raise RecipeError(f"split has {name!r}, expected {', '.join(SPLITS)}")
    kinds = _kinds(wanted) - {"lists"}
    if len(kinds) > 1:
        told = ", ".join(f"{name} = {value!r}" for name, value in wanted.items())
        raise RecipeError(
            f"split mixes {' and '.join(sorted(kinds))} ({told}), expected one of them; set all of "
            "it at once, as split={ validation = 0.1, test = 0.1 }"
        )
    shares = _without_lists(wanted)
    if kinds == {"fractions"} and sum(shares.values()) > 1 + _ROUNDING:
        raise RecipeError(f"split adds up to {sum(shares.values()):g}, expected at most 1")
    if TRAIN in shares and shares == wanted and not any(shares.values()):
        told = ", ".join(f"{name} = {value!r}" for name, value in wanted.items())
        raise RecipeError(
            f"split gives no pictures to any part ({told}), expected a share or count above 0; "
            "leave train out, and what the others leave is for training"
        )
    try:
        re.compile(group)
    except re.error as error:
        raise RecipeError(
            f"group is {group!r}, which is not a regular expression: {error}"
        ) from error


def assign_splits(
    items: Iterable[str],
    wanted: Mapping[str, Any],
    *,
    seed: int,
    before: Mapping[str, str],
    group: str = "",
    contents: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the split of each of `items`, "" for those that no split has room for.

    What `before` says stays, so that a picture never changes sides when others are added. Lists
    come first; fractions and counts are of the pictures that no list names. Fractions are of all
    of these, and at least one; what they leave is for training, if that has none of its own.
    Counts of validation and test come first: a broken file costs training one. Which pictures: by
    the hash of their names and `seed`, so that it does not depend on their order. Pictures of one
    group stay together: those in whose items the regular expression `group` finds the same (its
    first parenthesis, or all of it), and those of equal `contents` (hashes by item), which would
    be tested on what they trained on; then a split may get a few more than its share.

    Raises:
        RecipeError: if there are fewer pictures than validation and test are to have, or a list
            names none of them, or `group` finds nothing in any name.
    """
    check_split(wanted, group=group)
    fresh = sorted(set(items) - before.keys())
    _check_groups(group, [*fresh, *before])
    lists = {
        name: _NameList(wanted[name])
        for name in (*HELD_OUT, TRAIN)
        if isinstance(wanted.get(name), list)
    }
    for name, names in lists.items():
        _check_matches(name, names, [*fresh, *before])
    found = {item: name for item in fresh if (name := _listed(item, lists))}
    rest = [item for item in fresh if item not in found]
    shares = _without_lists(wanted)
    if lists and not shares:
        return found | dict.fromkeys(rest, "" if TRAIN in lists else TRAIN)
    known = {item: split for item, split in before.items() if not _listed(item, lists)}
    rooms = _rooms(len(rest) + len(known), shares, Counter(known.values()))
    if TRAIN in lists:
        rooms[TRAIN] = 0
    groups = _groups([*sorted(before), *rest], group, contents or {})
    return found | _filled(rest, rooms, seed=seed, before=before, names=groups)


def _check_groups(group: str, items: list[str]) -> None:
    """Refuse an expression that finds nothing: what belongs together would be in several splits."""
    if group and items and not any(re.search(group, item) for item in items):
        raise RecipeError(
            f"group {group!r} finds nothing in the names of {len(items)} pictures, such as "
            f"{min(items)}; write an expression that does, or leave group out"
        )


def _check_matches(name: str, names: _NameList, items: list[str]) -> None:
    """Refuse a list that names no picture: those to be held out would train, in silence."""
    if items and names and not any(item in names for item in items):
        raise RecipeError(
            f"split.{name} names none of the {len(items)} pictures, such as {min(items)}; write "
            "names as these, with folder and extension, or leave the list out"
        )


def _rooms(total: int, wanted: Mapping[str, Any], taken: Mapping[str, int]) -> dict[str, int]:
    """Return how many more pictures each split takes, those held out first."""
    counts = _shares(total, wanted) if _are_fractions(wanted) else dict(wanted)
    held = {name: counts.get(name, 0) for name in HELD_OUT}
    if sum(held.values()) > total:
        raise RecipeError(
            f"split wants {' and '.join(f'{n} for {name}' for name, n in held.items() if n)}, "
            f"but there are {total} pictures; lower the counts or use fractions"
        )
    rest = total - sum(held.values())
    all_of = {**held, TRAIN: min(counts.get(TRAIN, rest), rest)}
    return {name: max(0, room - taken.get(name, 0)) for name, room in all_of.items()}


def _shares(total: int, wanted: Mapping[str, float]) -> dict[str, int]:
    """Return how many pictures fractions are, each rounded, and no more than there are."""
    counts, left = {}, total
    for name in (*HELD_OUT, TRAIN):
        if name in wanted:
            # A share of few pictures is one of them, unless that would leave none to train on.
            least = 1 if wanted[name] and name != TRAIN and left > 1 else 0
            counts[name] = min(left, max(least, int(wanted[name] * total + 0.5)))
            left -= counts[name]
    if TRAIN in counts and sum(wanted.values()) >= 1 - _ROUNDING:
        counts[TRAIN] += left
    return counts


def _are_fractions(wanted: Mapping[str, Any]) -> bool:
    return _kinds(wanted) == {"fractions"}


def _kinds(wanted: Mapping[str, Any]) -> set[str]:
    """Return what kinds of values there are; a 0 goes with fractions and with counts."""
    kinds = {_kind(name, value) for name, value in wanted.items() if value != 0 or value is False}
    zeros = {_kind(name, value) for name, value in wanted.items()}
    return kinds or ({"counts"} if zeros else set())


def _without_lists(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if not isinstance(value, list)}


def _filled(
    items: Iterable[str],
    rooms: Mapping[str, int],
    *,
    seed: int,
    before: Mapping[str, str],
    names: Mapping[str, str],
) -> dict[str, str]:
    """Return splits for whole groups at a time, in the order of their names' hashes."""
    together: dict[str, list[str]] = defaultdict(list)
    for item in items:
        together[names[item]].append(item)
    known = {names[item]: split for item, split in before.items()}
    left, found = dict(rooms), dict[str, str]()
    for name in sorted(together, key=lambda name: seed_of(seed, "split", name)):
        open_to = (split for split, room in left.items() if room > 0)
        split = known.get(name) or next(open_to, "")
        if split:
            left[split] -= len(together[name])
        found |= dict.fromkeys(together[name], split)
    return found


def _groups(items: Iterable[str], group: str, contents: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each item's group: what `group` finds, or the first of equal content."""
    first: dict[str, str] = {}
    names = {}
    for item in items:
        match = re.search(group, item) if group else None
        if match is not None:
            names[item] = match[1] if match.re.groups and match[1] is not None else match[0]
        else:
            names[item] = first.setdefault(contents.get(item) or item, item)
    return names


class _NameList:
    """Items and globs; many thousand items are looked up as fast as one."""

    def __init__(self, lines: list[str]) -> None:
        self._items = frozenset(lines)
        globs = filter(glob.has_magic, lines)
        self._matches = [re.compile(fnmatch.translate(line)).match for line in globs]

    def __bool__(self) -> bool:
        return bool(self._items)

    def __contains__(self, item: str) -> bool:
        return item in self._items or any(matches(item) for matches in self._matches)


def _listed(item: str, lists: Mapping[str, _NameList]) -> str:
    """Return the split that a list puts an item into, "" where none does."""
    return next((name for name, names in lists.items() if item in names), "")


def _kind(name: str, value: Any) -> str:
    if isinstance(value, float) and 0 <= value <= 1:
        return "fractions"
    if type(value) is int and value >= 0:
        return "counts"
    if isinstance(value, list) and all(isinstance(glob, str) for glob in value):
        return "lists"
    raise RecipeError(
        f"split.{name} is {value!r}, expected a fraction such as 0.1, a count such as 300, a list "
        "of globs, or the name of a file with one item a line"
    )


def with_lists_read(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the split with the names that its files hold, one a line, in their place.

    Raises:
        RecipeError: if a file cannot be read.
    """
    return {n: _lines_of(n, v) if isinstance(v, str) else v for n, v in wanted.items()}


def _lines_of(name: str, file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path with a NUL byte.
        raise RecipeError(
            f"split.{name} is {file!r}, which cannot be read as a list ({error}); name a text file "
            "with one item a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]
