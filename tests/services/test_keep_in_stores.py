"""Jobs in a bucket that let pixels go once their pictures are exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.services.stores import Bucket, contents, pixels

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

WORDS = ("--model", "bicubic-x2", "--tile", 32, "--keep", "export", "--json")


def test_a_job_in_a_bucket_lets_go_and_makes_again_what_is_missing_or_changed(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command,
    store_workers: tuple[str, str], save: SavePicture, photo: TakePhoto,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    job, out = bucket / "job", bucket / "out"
    words = ("upscale", bucket / "photos", job, *WORDS, "--export", out, *store_workers,
             "--ledger", f"sqlite:///{tmp_path / 'ledger.sqlite'}")  # fmt: skip
    first = upres(*words)
    assert (first.code, first.document["let_go"]) == (0, 19), first.err
    exported = pixels(out)
    assert len(exported) == 19
    left = [name for name in contents(job) if "/c/" in name]
    assert left == []
    assert len([name for name in contents(job) if name.startswith("previews/")]) == 3

    quiet = upres(*words)
    assert (quiet.code, quiet.document["computed_units"]) == (0, 0), quiet.err
    assert quiet.document["export"]["written"] == 0
    assert quiet.document["export"]["unchanged"] == 19
    status = upres("status", job, "--disk", "--json").document
    assert (status["let_go"], status["items"]["done"]) == ({"lr": 19, "sr": 19}, 19)

    (out / "a.png").unlink()
    lost = upres("export", job, out, "--json", *store_workers)
    assert (lost.code, lost.document["let_go"]) == (3, 1)
    mended = upres(*words)
    assert (mended.code, mended.document["computed_units"]) == (0, 9), mended.err
    assert pixels(out) == exported

    save(pictures / "small" / "03.png", photo(16, 20, at=200))
    bucket.put(pictures / "small", "photos/small")
    changed = upres(*words)
    assert (changed.code, changed.document["computed_units"]) == (0, 1), changed.err
    now = pixels(out)
    assert {name for name in now if now[name] != exported[name]} == {"small/03.png"}
    assert [name for name in contents(job) if "/c/" in name] == []
    assert upres("report", job).code == 0
    page = (job / "report.html").read_text()
    assert page.count("let go after the export") == 19
