"""`--keep sr` lets the copies of the input go, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.jobs.perform import upscale_job
from pipeline.storage.ledger import LR, SR
from tests.pipeline.jobs.keep.test_keep import Heard, asked, let_go, pixels, some_pictures

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, Digest, SavePicture, TakePhoto


def test_the_copies_of_the_input_go_and_come_back_when_they_are_needed(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str],
    upres: Command, digest: Digest,
) -> None:  # fmt: skip
    some_pictures(tmp_path, photo, save)
    words = {"keep": "sr", "export_dir": None}
    result = upscale_job(asked(tmp_path, cluster, **words))
    assert result.complete
    assert let_go(tmp_path) == {LR: 3}
    assert (pixels(tmp_path, "source.zarr"), pixels(tmp_path, "sr.zarr")) == (0, 9 + 4 + 4)
    again = upscale_job(asked(tmp_path, cluster, **words))
    assert (again.complete, again.computed_units) == (True, 0)

    job = tmp_path / "job"
    assert upres("export", job, tmp_path / "out", *cluster).code == 0
    before = digest(tmp_path / "out")
    assert upres("report", job).code == 0
    page = (job / "report.html").read_text("utf-8")
    assert page.count("The copy of the input was let go (--keep sr)") == 3
    assert page.count("data:image/") == 3
    assert len(upres("score", job, "--json", *cluster).document["items"]) == 3

    # A damaged tile fails; the rerun has nothing to compute it from, and the next night has.
    (shard,) = (job / "sr.zarr" / "a.png").rglob("c/0/1/1")
    shard.write_bytes(b"damaged")
    assert upres("export", job, tmp_path / "other", *cluster).code == 3
    rerun = upres("rerun", job, *cluster)
    assert rerun.code == 3
    assert "the pixels of 1 picture were let go (--keep), so nothing is left" in rerun.err
    heard = Heard()
    mended = upscale_job(asked(tmp_path, cluster, **words), heard)
    assert (mended.complete, mended.computed_units) == (True, 1)
    assert heard.remarks == [
        "the pixels of 1 picture were let go (--keep) and are needed: read again from the source"
    ]
    assert upres("export", job, tmp_path / "out", *cluster).code == 0
    assert digest(tmp_path / "out") == before
    assert pixels(tmp_path, "source.zarr") == 0


@pytest.mark.slow
def test_an_archive_that_is_the_source_keeps_all_that_it_has(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str],
    upres: Command, digest: Digest,
) -> None:  # fmt: skip
    some_pictures(tmp_path, photo, save)
    archive = tmp_path / "photos.zarr"
    assert upres("ingest", tmp_path / "in", archive, *cluster).code == 0
    before = digest(archive)
    result = upscale_job(asked(tmp_path, cluster, src=str(archive)))
    assert result.complete
    assert let_go(tmp_path) == {SR: 3}
    assert digest(archive) == before
    (tmp_path / "out" / "a.png").unlink()
    again = upscale_job(asked(tmp_path, cluster, src=str(archive)))
    assert (again.complete, again.computed_units) == (True, 9)
    rerun = upres("rerun", tmp_path / "job", "--stale", "--model", "lanczos-x2", *cluster)
    assert rerun.code == 0
    assert pixels(tmp_path, "sr.zarr") == 9 + 4 + 4
