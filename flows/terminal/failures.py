"""Failures as text: the real ones first, and failures of one kind together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import click

from flows.terminal.printing import visible
from pipeline.errors import in_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compute.outcomes import Failure

SHOWN = 20
"""How many lines are printed; --json lists every failure."""

_LAST = "UnsupportedError"
_OF_MANY = "DiskError"
"""Errors that have one cause for all items. They always share a line."""


def failure_lines(
    failures: Sequence[Failure], *, elsewhere: str = "--json lists them all"
) -> list[str]:
    """Return at most `SHOWN` lines for failures, and one more that says where the rest is listed.

    Failed tiles come first, then files that should be pictures, and last what is of a kind that
    upres does not read. Where there are more than `SHOWN`, failures for the same reason share a
    line; those of a disk always do.
    """
    ordered = sorted(failures, key=_rank)
    groups = _alike(ordered, apart=len(ordered) <= SHOWN)
    lines = [_line(group) for group in groups[:SHOWN]]
    rest = [one for group in groups[SHOWN:] for one in group]
    if rest:
        kinds = Counter(one.error for one in rest)
        counts = ", ".join(f"{number} {error}" for error, number in kinds.most_common())
        lines.append(f"and {len(rest)} more ({counts}); {elsewhere}")
    return lines


def print_failures(failures: Sequence[Failure]) -> None:
    """Print the lines of failures on stderr."""
    for line in failure_lines(failures):
        click.echo(f"  {line}", err=True)


def _rank(failure: Failure) -> int:
    if failure.error == _LAST:
        return 2
    return 0 if failure.tile is not None else 1


def _alike(failures: Sequence[Failure], *, apart: bool) -> list[list[Failure]]:
    """Return groups of one rank and one reason, each where its first member stands.

    With `apart` each is a group of its own, but for those that have one cause for all.
    """
    groups: dict[tuple[int | str, ...], list[Failure]] = defaultdict(list)
    for n, failure in enumerate(failures):
        # Messages that differ only in numbers give the same reason.
        reason = re.sub(r"\d+", "#", _reason(failure))
        own = n if apart and failure.error != _OF_MANY else 0
        groups[_rank(failure), failure.error, reason, own].append(failure)
    return list(groups.values())


def _line(group: Sequence[Failure]) -> str:
    first = group[0]
    tile = "" if first.tile is None else f" tile {first.tile}"
    more = f" (and {len(group) - 1} more like this)" if len(group) > 1 else ""
    return visible(f"{first.item}{tile}: {first.error}: {_reason(first)}{more}")


def _reason(failure: Failure) -> str:
    words = failure.message
    for name in (failure.item, in_one_line(failure.item)):
        words = words.removeprefix(f"{name}: ")
    return words
