"""The scores of a job as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

_ITEM_WIDTH = 44
_CONSISTENCY = (
    "These scores show how well SR agrees with its own input, not how true its detail is;"
    "\nfor that, compare with originals: --reference HR."
)


def score_table(document: dict[str, Any], *, compared: bool = True) -> str:
    """Return the scores of a job as lines: an item each, then the means.

    `compared` says whether there were originals; without, the figures are of consistency.
    """
    names = (
        ("psnr_y", "bicubic_psnr_y", "ssim_y", "bicubic_ssim_y")
        if compared
        else ("consistency_psnr_y", "consistency_ssim_y")
    )
    header = ("PSNR-Y", "bicubic", "SSIM-Y", "bicubic") if compared else ("PSNR-Y", "SSIM-Y")
    title = "item" if compared else "item (SR reduced, against LR)"
    rows = [_row(title, header)]
    rows += [_row(visible(i["item"]), _figures(i, names)) for i in document["items"]]
    rows.append(_row("mean", _figures(document, names)))
    if not compared:
        rows.append(_CONSISTENCY)
    return "\n".join(rows)


def _row(label: str, cells: Sequence[str]) -> str:
    if len(label) > _ITEM_WIDTH:
        label = "..." + label[3 - _ITEM_WIDTH :]
    return f"{label:{_ITEM_WIDTH}}" + "".join(f"{cell:>10}" for cell in cells)


def _figures(values: dict[str, Any], names: Sequence[str]) -> list[str]:
    infinite = values.get("infinite", ())
    return [
        "equal" if name in infinite else _figure(values.get(name), 2 if "psnr" in name else 4)
        for name in names
    ]


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
