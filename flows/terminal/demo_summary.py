"""The result of the demonstration as text: scores, counts, and where everything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.demo.demo import MODEL
from flows.terminal.score_table import score_table

if TYPE_CHECKING:
    from flows.demo.demo import DemoResult


def demo_summary(result: DemoResult) -> str:
    """Return the scores, the gain over bicubic, and the folders to look into."""
    document, folder = result.document, result.folder
    scores, items = document["scores"], document["items"]
    gain = ""
    if scores["psnr_y"] is not None and scores["bicubic_psnr_y"] is not None:
        better = scores["psnr_y"] - scores["bicubic_psnr_y"]
        verb = "beats" if better >= 0 else "is below"
        gain = f"{MODEL} {verb} bicubic by {abs(better):.2f} dB on these photographs.\n"
    lines = (
        ("originals", folder / "originals"),
        ("small (LR)", folder / "small"),
        ("upscaled (SR)", folder / "images"),
        ("job (archives)", folder / "job"),
        ("report", document["report"]),
    )
    places = "\n".join(f"  {name:15} {place}" for name, place in lines)
    return (
        f"\n{score_table(scores)}\n\n{gain}"
        f"{items['done']} photographs, {document['computed_units']} tiles computed, "
        f"{document['seconds']} s\n\n{places}"
    )
