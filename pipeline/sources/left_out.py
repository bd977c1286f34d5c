"""What a listing left out: counts by reason, as a value and as one line.

Nothing below a source is passed over in silence: it is listed, or counted here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.pictures.kinds import HIDDEN, LITTER, NOT_PICTURES, OURS, REPEATED, SIDECARS, SPECIAL

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = {
    LITTER: ("file of litter", "files of litter"),
    HIDDEN: ("hidden file", "hidden files"),
    SIDECARS: ("sidecar", "sidecars"),
    NOT_PICTURES: ("file that is not a picture", "files that are not pictures"),
    OURS: ("job, archive or file of upres", "jobs, archives and files of upres"),
    REPEATED: ("folder that is listed already", "folders that are listed already"),
    SPECIAL: ("socket, pipe or device", "sockets, pipes and devices"),
}
_LABELS_SHOWN = 8
_LABEL_CHARACTERS = 40


@dataclass(slots=True)
class LeftOut:
    """How many files (or, of `REPEATED` and `OURS`, folders) were left out, by reason and label.

    With `at_least`, litter was too much to count: the figures are lower bounds.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    at_least: bool = False

    def __bool__(self) -> bool:
        """Return whether anything was left out."""
        return bool(self.counts)

    def add(self, why: str, label: str, number: int = 1) -> None:
        """Count `number` more."""
        self.counts[why, label[:_LABEL_CHARACTERS]] += number

    def to_json(self) -> dict[str, int]:
        """Return the number for each reason, zeros too."""
        return {why: self._number(why) for why in _WORDS}

    def __str__(self) -> str:
        """Return one line, the most frequent labels of each reason in brackets."""
        lower_bound = "at least " if self.at_least else ""
        return f"left out: {lower_bound}{'; '.join(self._parts())}"

    def _number(self, why: str) -> int:
        return sum(n for (reason, _), n in self.counts.items() if reason == why)

    def _parts(self) -> Iterator[str]:
        for why, (one, many) in _WORDS.items():
            number = self._number(why)
            if number:
                labels = {label: n for (reason, label), n in self.counts.items() if reason == why}
                ranked = sorted(labels.items(), key=lambda pair: (-pair[1], pair[0]))
                shown = [_counted(why, label, n) for label, n in ranked[:_LABELS_SHOWN]]
                rest = sum(n for _, n in ranked[_LABELS_SHOWN:])
                shown += [f"others {rest}"] if rest else []
                yield f"{number} {one if number == 1 else many} ({', '.join(shown)})"


def _counted(why: str, label: str, number: int) -> str:
    """Return a label with its number, which one name by itself does not need."""
    by_kind = why in (LITTER, SIDECARS, NOT_PICTURES)
    return f"{label} {number}" if by_kind or number > 1 else label
