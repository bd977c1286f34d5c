"""The two forms of a name: é as one character (NFC, as most write it) or two (NFD, as Macs do).

A name is what its bytes are, and nothing here changes one. But a copy from another system may be
written in the other form, so names are compared in one form where nobody has the very name.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from pipeline.sources.globs import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Value = TypeVar("Value")


def composed(name: str) -> str:
    """Return the form by which names are compared: NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def selects(pattern: str, names: Callable[[], Iterable[str]]) -> Callable[[str], bool]:
    """Return a function that says whether a name matches the glob `pattern`, in whatever form.

    Of two of `names` that differ in form alone, only those that match as they are written are
    selected, if any does.
    """
    if pattern.isascii() and not any(sign in pattern for sign in "?["):
        # Whatever is written out is the same in both forms.
        return lambda name: matches(name, pattern)
    exact = {composed(name) for name in names() if not name.isascii() and matches(name, pattern)}
    wanted = composed(pattern)

    def selected(name: str) -> bool:
        if matches(name, pattern):
            return True
        form = composed(name)
        return form not in exact and matches(form, wanted)

    return selected


def by_form(found: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    """Return, for each name of `wanted`, what `found` has under it in whatever form.

    What has the exact name of one belongs to that one; what fits several belongs to none.
    """
    names = list(wanted)
    exact = {name: found[name] for name in names if name in found}
    free: dict[str, list[str]] = defaultdict(list)
    for name in found:
        if name not in exact:
            free[composed(name)].append(name)
    asking: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name not in exact:
            asking[composed(name)].append(name)
    others = {
        asked[0]: found[free[form][0]]
        for form, asked in asking.items()
        if len(asked) == 1 and len(free.get(form, ())) == 1
    }
    return exact | others
