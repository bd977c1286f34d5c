"""Failures as lines for people: the real ones first, those of one kind together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import click

from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compute.outcomes import Failure

SHOWN = 20
"""How many lines are printed; --json lists every failure."""

_LAST = "UnsupportedError"


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Return at most `SHOWN` lines for failures, and one for those that found no place.

    Failed tiles come first, then files that should be pictures, and last what is of a kind that
    upres does not read. Where there are more than `SHOWN`, failures for the same reason share a
    line.
    """
    ordered = sorted(failures, key=_rank)
    groups = [[one] for one in ordered] if len(ordered) <= SHOWN else _alike(ordered)
    lines = [_line(group) for group in groups[:SHOWN]]
    rest = [one for group in groups[SHOWN:] for one in group]
    if rest:
        kinds = Counter(one.error for one in rest)
        counts = ", ".join(f"{number} {error}" for error, number in kinds.most_common())
        lines.append(f"and {len(rest)} more ({counts}); --json lists them all")
    return lines


def print_failures(failures: Sequence[Failure]) -> None:
    """Print the lines of failures on stderr."""
    for line in failure_lines(failures):
        click.echo(f"  {line}", err=True)


def _rank(failure: Failure) -> int:
    if failure.error == _LAST:
        return 2
    return 0 if failure.tile is not None else 1


def _alike(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Return groups of one rank and one reason, each where its first member stands."""
    groups: dict[tuple[int, str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        # Numbers tell two tiles apart, not two reasons.
        reason = re.sub(r"\d+", "#", _reason(failure))
        groups[_rank(failure), failure.error, reason].append(failure)
    return list(groups.values())


def _line(group: Sequence[Failure]) -> str:
    first = group[0]
    tile = "" if first.tile is None else f" tile {first.tile}"
    more = f" (and {len(group) - 1} more like this)" if len(group) > 1 else ""
    return visible(f"{first.item}{tile}: {first.error}: {_reason(first)}{more}")


def _reason(failure: Failure) -> str:
    return failure.message.removeprefix(f"{failure.item}: ")
