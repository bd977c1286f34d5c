"""Small pictures that share chunks: a chunk lets go as a whole, each picture comes back alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.jobs.job import open_job
from pipeline.jobs.keep.candidates import Finished
from pipeline.jobs.keep.leaving import LeavingTask, take_leave
from pipeline.jobs.perform import upscale_job
from pipeline.storage.chunk_members import Chunk, read_chunk
from pipeline.storage.ledger import INGESTED, LR, SR, Ledger
from tests.pipeline.jobs.keep.test_keep import Heard, asked, let_go
from tests.pipeline.jobs.keep.test_keep_killed import Killed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

MANY = 18


@pytest.fixture
def faces(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    for n in range(MANY):
        save(tmp_path / "in" / f"{n:02}.png", photo(16, 20, at=n))
    return tmp_path


def test_what_a_chunk_holds_is_read_a_few_times_however_many_pictures_leave_it(
    faces: Path, cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upscale_job(asked(faces, cluster, keep="all")).complete
    job = open_job(faces / "job")
    ledger = job.open_ledger_to_read()
    rows = list(ledger.items(INGESTED))
    ledger.close()
    read: list[Path] = []

    def reading(file: Path, *, mixed: bool) -> Chunk | None:
        read.append(file)
        return read_chunk(file, mixed=mixed)

    monkeypatch.setattr("pipeline.storage.stack.read_chunk", reading)
    task = LeavingTask(
        items=tuple(Finished(row, (LR, SR)) for row in rows),
        job=job.id,
        source_dir=job.source_dir,
        sr_dir=job.sr_dir,
        previews_dir=faces / "previews",
    )
    assert len(take_leave(task)) == 2 * MANY
    # By each of the two archives, and not by each picture.
    assert 2 <= len(read) < MANY / 2


def chunks(folder: Path, archive: str) -> int:
    """Return how many chunks of stacks have pixels."""
    return sum(path.is_file() for path in (folder / "job" / archive / "@stacks").rglob("c/*/0/0/0"))


@pytest.mark.slow
def test_a_chunk_goes_with_all_its_pictures_and_one_that_changes_comes_back_alone(
    faces: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str], upres: Command,
    digest: Digest,
) -> None:  # fmt: skip
    result = upscale_job(asked(faces, cluster))
    assert result.complete
    assert let_go(faces) == {LR: MANY, SR: MANY}
    assert (chunks(faces, "source.zarr"), chunks(faces, "sr.zarr")) == (0, 0)
    assert len(list((faces / "job" / "previews").rglob("*.jpg"))) == 1
    before = digest(faces / "out")
    again = upscale_job(asked(faces, cluster))
    assert (again.complete, again.computed_units) == (True, 0)
    assert again.exported is not None
    assert (again.exported.written, again.exported.unchanged) == (0, MANY)

    save(faces / "in" / "03.png", photo(16, 20, at=200))
    changed = upscale_job(asked(faces, cluster))
    assert (changed.complete, changed.computed_units) == (True, 1)
    after = digest(faces / "out")
    assert {name for name in after if after[name] != before[name]} == {"03.png"}
    assert let_go(faces) == {LR: MANY, SR: MANY}
    assert (chunks(faces, "source.zarr"), chunks(faces, "sr.zarr")) == (0, 0)

    (faces / "out" / "07.png").unlink()
    lost = upscale_job(asked(faces, cluster))
    assert (lost.complete, lost.computed_units) == (True, 1)
    assert digest(faces / "out") == after
    assert upres("report", faces / "job").code == 0
    page = (faces / "job" / "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == MANY

    heard = Heard()
    other = upscale_job(asked(faces, cluster, model="lanczos-x2"), heard)
    assert other.complete
    assert heard.remarks == [
        f"the pixels of {MANY} pictures were let go (--keep) and are needed: read again from the "
        "source"
    ]
    assert upscale_job(asked(faces, cluster, model="lanczos-x2")).computed_units == 0
    whole = {"job_dir": faces / "whole", "export_dir": faces / "of-whole", "keep": "all"}
    assert upscale_job(asked(faces, cluster, model="lanczos-x2", **whole)).complete
    assert digest(faces / "out") == digest(faces / "of-whole")


@pytest.mark.slow
def test_without_the_copies_a_chunk_stays_as_it_is_when_one_of_its_pictures_changes(
    faces: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str], digest: Digest
) -> None:
    words = {"keep": "sr"}
    assert upscale_job(asked(faces, cluster, **words)).complete
    assert (let_go(faces), chunks(faces, "source.zarr")) == ({LR: MANY}, 0)
    assert upscale_job(asked(faces, cluster, **words)).computed_units == 0
    save(faces / "in" / "03.png", photo(16, 20, at=200))
    result = upscale_job(asked(faces, cluster, **words))
    assert (result.complete, result.computed_units) == (True, 1)
    assert (chunks(faces, "source.zarr"), chunks(faces, "sr.zarr")) == (0, 2)
    whole = {"job_dir": faces / "whole", "export_dir": faces / "of-whole", "keep": "all"}
    assert upscale_job(asked(faces, cluster, **whole)).complete
    assert digest(faces / "out") == digest(faces / "of-whole")


@pytest.mark.slow
def test_killed_while_pictures_come_back_into_a_stack_the_next_run_makes_their_files(
    faces: Path, cluster: tuple[str, str], digest: Digest
) -> None:
    assert upscale_job(asked(faces, cluster)).complete
    before = digest(faces / "out")
    (faces / "out" / "07.png").unlink()
    with pytest.MonkeyPatch.context() as patch:
        forget = Ledger.forget_let_go

        def killed(ledger: Ledger, archive: str, items: Iterable[str]) -> None:
            items = list(items)
            if archive == LR and items:  # The chunk is written, and nothing of it is recorded.
                raise Killed
            forget(ledger, archive, items)

        patch.setattr(Ledger, "forget_let_go", killed)
        with pytest.raises(Killed):
            upscale_job(asked(faces, cluster))
    assert chunks(faces, "source.zarr") == 1
    result = upscale_job(asked(faces, cluster))
    assert (result.complete, result.computed_units) == (True, 1)
    assert digest(faces / "out") == before
    assert let_go(faces) == {LR: MANY, SR: MANY}
    assert (chunks(faces, "source.zarr"), chunks(faces, "sr.zarr")) == (0, 0)


def test_a_chunk_stays_while_one_of_its_pictures_is_not_exported(
    faces: Path, cluster: tuple[str, str]
) -> None:
    (faces / "out").mkdir()
    (faces / "out" / "05.png").write_bytes(b"of somebody else")
    result = upscale_job(asked(faces, cluster))
    assert [failure.item for failure in result.later_failures] == ["05.png"]
    assert let_go(faces) == {}
    assert (chunks(faces, "source.zarr"), chunks(faces, "sr.zarr")) == (1, 1)
