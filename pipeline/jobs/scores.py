"""The scores of a job as values: read from the ledger, and as the document that is printed.

What belongs here needs no network, so that commands which only show results start at once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.pictures.metrics import Scores, Similarity, SquaredError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.storage.ledger import Ledger

REFERENCE, BICUBIC, CONSISTENCY = "reference", "bicubic", "consistency"
"""What a score compares: SR with HR; bicubic enlargement with HR; SR, reduced, with LR."""

_PSNR = {"psnr_y": REFERENCE, "bicubic_psnr_y": BICUBIC, "consistency_psnr_y": CONSISTENCY}


@dataclass(frozen=True, slots=True)
class ItemScores:
    """The scores of one item by what was compared; each the sum over its tiles."""

    item: str
    kinds: Mapping[str, Scores]
    tiles: Mapping[str, Mapping[int, Scores]]


def read_scores(ledger: Ledger) -> list[ItemScores]:
    """Return the scores of all items, each with its tiles, from the ledger."""
    items: dict[str, dict[str, dict[int, Scores]]] = defaultdict(lambda: defaultdict(dict))
    for row in ledger.scores():
        items[row.item][row.kind][row.tile] = Scores(
            SquaredError(row.error_total, row.error_count),
            Similarity(row.ssim_total, row.ssim_count),
        )
    return [
        ItemScores(item, {k: sum(t.values(), Scores()) for k, t in kinds.items()}, kinds)
        for item, kinds in items.items()
    ]


def scores_to_json(scores: Iterable[ItemScores]) -> dict[str, Any]:
    """Return the document that `score` prints; means are over the items that have the figure.

    Where two pictures are equal the figure is None, as JSON has no infinity; `infinite` names it.
    """
    items = [
        {
            "item": s.item,
            "psnr_y": _figure(s, REFERENCE, "psnr_y"),
            "ssim_y": _figure(s, REFERENCE, "ssim_y"),
            "bicubic_psnr_y": _figure(s, BICUBIC, "psnr_y"),
            "bicubic_ssim_y": _figure(s, BICUBIC, "ssim_y"),
            "consistency_psnr_y": _figure(s, CONSISTENCY, "psnr_y"),
            "consistency_ssim_y": _figure(s, CONSISTENCY, "ssim_y"),
            "infinite": [name for name, kind in _PSNR.items() if _is_infinite(s, kind)],
        }
        for s in scores
    ]
    known = items[0] if items else {"psnr_y": 0, "ssim_y": 0}
    names = [name for name in known if name.endswith(("psnr_y", "ssim_y"))]
    return {"items": items, **{n: _mean(item[n] for item in items) for n in names}}


def _figure(scores: ItemScores, kind: str, name: str) -> float | None:
    found = scores.kinds.get(kind)
    value = None if found is None else getattr(found, name)
    # Equal pictures have an infinite PSNR, which JSON cannot say.
    return value if value is not None and np.isfinite(value) else None


def _is_infinite(scores: ItemScores, kind: str) -> bool:
    return kind in scores.kinds and scores.kinds[kind].psnr_y == float("inf")


def _mean(values: Iterator[Any] | Iterable[Any]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
