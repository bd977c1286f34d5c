"""What a demonstration must have left in its folder, and told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from pipeline.jobs.scores import read_scores, scores_to_json
from pipeline.pictures.files import read_picture
from pipeline.pictures.formats import EXTENSIONS

if TYPE_CHECKING:
    from pathlib import Path


def check_demonstration(demo: Path, *, told: str) -> None:
    """Look whether it went from photographs to photographs, scores and report.

    `told` is what the command printed.
    """
    photos = files(demo / "originals")
    assert len(photos) >= 8
    job = open_job(demo / "job")
    ledger = job.open_ledger_to_read()
    status, scores = read_status(job.folder, ledger), scores_to_json(read_scores(ledger))
    ledger.close()
    assert status.items["done"] == len(photos)
    assert status.units["done"] > len(photos)
    assert (status.units["failed"], status.units["pending"]) == (0, 0)

    assert len(scores["items"]) == len(photos)
    assert scores["psnr_y"] > scores["bicubic_psnr_y"] > 20
    assert scores["ssim_y"] > scores["bicubic_ssim_y"] > 0.5

    done = f"{len(photos)} photographs, {status.units['done']} tiles computed, "
    assert done in told
    gain = f"{scores['psnr_y'] - scores['bicubic_psnr_y']:.2f}"
    assert f"span-x4 beats bicubic by {gain} dB on these photographs." in told
    (report,) = re.findall(r"^  report +(.*report\.html)$", told, re.MULTILINE)
    assert (demo.parent / report).stat().st_size > 1000

    assert files(demo / "small") == files(demo / "images") == photos
    for name in photos:
        small = (demo / "small" / name).with_suffix(".png")
        large = (demo / "images" / name).with_suffix(".png")
        lr = read_picture(small.read_bytes(), name=name).pixels.shape
        sr = read_picture(large.read_bytes(), name=name).pixels.shape
        assert sr == (lr[0], 4 * lr[1], 4 * lr[2])
    # Prefect's database is beside the pictures.
    assert (demo / "prefect").is_dir()


def files(folder: Path) -> set[str]:
    """Return the names of the pictures below a folder, without their endings."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    return {path.with_suffix("").as_posix() for path in found}
