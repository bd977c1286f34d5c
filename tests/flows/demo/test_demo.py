"""The demonstration: the main job on shipped photographs, through the real Prefect flow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.pictures.files import read_picture
from pipeline.pictures.formats import EXTENSIONS

pytestmark = pytest.mark.slow

UPRES = Path(sys.executable).with_name("upres")


def files(folder: Path) -> set[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    return {path.with_suffix("").as_posix() for path in found}


def test_the_demonstration_goes_from_photographs_to_photographs_scores_and_report(
    tmp_path: Path,
) -> None:
    demo, home = tmp_path / "demo", tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [UPRES, "demo", demo, "--workers", "2", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment | {"HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)

    photos = files(demo / "originals")
    assert len(photos) >= 8
    assert document["items"]["done"] == len(photos)
    assert document["units"]["done"] == document["computed_units"] > len(photos)
    assert document["failures"] == []

    scores = document["scores"]
    assert len(scores["items"]) == len(photos)
    assert scores["failures"] == []
    assert scores["psnr_y"] > scores["bicubic_psnr_y"] > 20
    assert scores["ssim_y"] > scores["bicubic_ssim_y"] > 0.5

    assert Path(document["report"]).stat().st_size > 1000
    assert document["export"]["written"] == len(photos)
    assert files(demo / "small") == files(demo / "images") == photos
    for name in photos:
        small = (demo / "small" / name).with_suffix(".png")
        large = (demo / "images" / name).with_suffix(".png")
        lr = read_picture(small.read_bytes(), name=name).pixels.shape
        sr = read_picture(large.read_bytes(), name=name).pixels.shape
        assert sr == (lr[0], 4 * lr[1], 4 * lr[2])

    # Prefect's database is beside the pictures, not in the user's home.
    assert (demo / "prefect").is_dir()
    assert not (home / ".prefect").exists()
