"""Patterns of paths: ``*``, ``?``, ``[ab]``, ``{a,b}`` within a name, ``**`` for any depth.

A name must match as it is written, but for its extension, which matches in any case: cameras write
``.JPG`` where people type ``.jpg``.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from dataclasses import dataclass
from functools import lru_cache

_BRACES = re.compile(r"\{([^{}/]*)\}")


def is_glob(text: str) -> bool:
    """Tell whether a path holds anything that could match more than its own name."""
    return glob.has_magic(text) or re.search(r"\{[^{}/]*,[^{}/]*\}", text) is not None


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name, or an id with slashes, matches; the case of its extension is free."""
    return name == pattern or any(_matches(name, one) for one in _alternatives(pattern))


@lru_cache(maxsize=256)
def _alternatives(pattern: str) -> tuple[str, ...]:
    """Return the patterns that braces stand for, and the pattern itself for names with braces."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return (pattern,)
    start, end = pattern[: braces.start()], pattern[braces.end() :]
    spelled = [one for o in braces[1].split(",") for one in _alternatives(f"{start}{o}{end}")]
    return (*spelled, pattern)


def _matches(name: str, pattern: str) -> bool:
    lowered, cut = _lowered(pattern)
    dot = name.rfind(".", name.rfind("/") + 1)
    free = name if dot < 0 else name[:dot] + name[dot:].lower()
    if fnmatch.fnmatchcase(free, lowered):
        return True
    # Not where the extension may *not* be something: that goes for any case of it too.
    return not cut and fnmatch.fnmatchcase(name, pattern)


@lru_cache(maxsize=1024)
def _lowered(pattern: str) -> tuple[str, bool]:
    """Return the pattern with its extension in lower case, and whether that excludes letters."""
    start = pattern.rfind("/") + 1
    outside = re.sub(r"\[!?\]?[^\]]*\]", lambda found: "[" * len(found[0]), pattern)
    at = max(outside.rfind(".", start), pattern.rfind("[.]", start))
    if at < 0:
        at = max(outside.rfind("*", start), start - 1) + 1
        at = at if outside[start:at] else len(pattern)
    return pattern[:at] + pattern[at:].lower(), "[!" in pattern[at:]


@dataclass(frozen=True, slots=True)
class Pattern:
    """The parts of a pattern below a folder; without parts, everything at any depth.

    While folders are walked, a set of positions says which parts the next name has to match. The
    position after the last part means: everything from here on.
    """

    parts: tuple[str, ...] = ()

    def start(self) -> frozenset[int]:
        """Return the positions at the folder that the pattern starts in."""
        return self._closed({0})

    def into(self, positions: frozenset[int], name: str) -> frozenset[int]:
        """Return the positions inside the folder `name`; none if nothing in it can match."""
        inside = set()
        for at in positions:
            if at == len(self.parts) or self.parts[at] == "**":
                inside.add(at)
            elif matches_folder(name, self.parts[at]):
                inside.add(at + 1)
        return self._closed(inside)

    def takes(self, positions: frozenset[int], name: str) -> bool:
        """Tell whether the file `name` matches."""
        last = len(self.parts) - 1
        return last + 1 in positions or (last in positions and matches(name, self.parts[last]))

    def spells(self, positions: frozenset[int], name: str) -> bool:
        """Tell whether `name` is asked for by itself, so that it is not taken for litter."""
        wanted = [self.parts[at] for at in positions if at < len(self.parts)]
        hidden = name.startswith(".")
        return any(
            part == name or (hidden and part.startswith(".") and matches_folder(name, part))
            for part in wanted
        )

    def _closed(self, positions: set[int]) -> frozenset[int]:
        """Add what follows ``**``, which may stand for no folder at all."""
        found = set(positions)
        for at in range(len(self.parts)):
            if at in found and self.parts[at] == "**":
                found.add(at + 1)
        return frozenset(found)


def matches_folder(name: str, part: str) -> bool:
    """Tell whether the name of a folder matches one part of a pattern, case and all."""
    return any(fnmatch.fnmatchcase(name, one) for one in _alternatives(part)) or name == part
