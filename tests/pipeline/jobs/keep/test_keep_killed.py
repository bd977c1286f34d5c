"""A run that is killed while it lets pixels go: the next one ends in the same state."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.jobs.job import open_job
from pipeline.jobs.perform import upscale_job
from pipeline.storage.archive import Archive
from pipeline.storage.atomic import write_atomic
from pipeline.storage.ledger import LR, SR, Ledger
from tests.pipeline.jobs.keep.test_keep import asked, let_go, pixels, some_pictures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Begun, Digest, SavePicture, TakePhoto

ROOT = Path(__file__).parents[4]


class Killed(BaseException):
    """Ends a run as a kill does: nothing in the way of letting go catches it."""


@pytest.fixture
def done(begun: Begun, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str]) -> Path:
    """A job that kept everything, exported; one of its pictures is not, as a file is in the way."""

    def make(folder: Path) -> None:
        some_pictures(folder, photo, save)
        save(folder / "in" / "blocked.png", photo(40, 40))
        (folder / "out").mkdir()
        (folder / "out" / "blocked.png").write_bytes(b"of somebody else")
        assert upscale_job(asked(folder, cluster, keep="all")).status.complete

    return begun.as_made_by(make)


def state(work: Path) -> dict[str, Any]:
    """Return all that counts after letting go."""
    with closing(open_job(work / "job").open_ledger()) as ledger:
        return {
            "let go": let_go(work),
            "half": ledger.half_let_go(),
            "files": (pixels(work, "source.zarr"), pixels(work, "sr.zarr")),
            "scored": sorted({row.item for row in ledger.scores()}),
            "previews": sorted(path.name for path in (work / "job" / "previews").rglob("*.jpg")),
        }


def after(calls: int, function: Callable[..., Any], *, half: bool = False) -> Callable[..., Any]:
    """Return a function that is killed once it was called so often; `half`: in its midst."""
    called = 0

    def work(*args: Any, **more: Any) -> Any:
        nonlocal called
        called += 1
        if half and called == calls:
            archive, item = args
            (archive.path / item / "zarr.json").unlink()
            shutil.rmtree(archive.path / item / "0" / "c")
            raise Killed
        result = function(*args, **more)
        if called == calls:
            raise Killed
        return result

    return work


@pytest.mark.slow
def test_killed_at_any_step_the_next_run_ends_in_the_same_state(
    done: Path, cluster: tuple[str, str], digest: Digest, tmp_path: Path
) -> None:
    shutil.copytree(done, tmp_path / "kept")
    before = digest(done / "out")

    def again(keep: str = "export") -> None:
        result = upscale_job(asked(done, cluster, keep=keep))
        assert [failure.item for failure in result.later_failures] == ["blocked.png"]
        assert result.exported is not None
        assert (result.computed_units, result.exported.written) == (0, 0)

    again()
    expected = state(done)
    assert expected["let go"] == {LR: 3, SR: 3}
    assert expected["files"] == (1, 4)
    steps = [
        *[(Ledger, "put_let_go", n, False) for n in (1, 2)],
        *[(Archive, "delete_own", n, half) for n in (1, 3, 4, 6) for half in (True, False)],
    ]
    for home, name, calls, half in steps:
        shutil.rmtree(done)
        shutil.copytree(tmp_path / "kept", done)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(home, name, after(calls, getattr(home, name), half=half))
            with pytest.raises(Killed):
                upscale_job(asked(done, cluster))
        halfway = state(done)
        assert bool(halfway["half"]) is not (name == "put_let_go" and calls == 2)
        # What keeps everything ends what was begun, too, and lets nothing else go.
        again(keep="all")
        assert state(done) == expected, (name, calls, half)
        assert digest(done / "out") == before
        again()
        assert state(done) == expected


def test_killed_before_anything_is_recorded_nothing_is_gone(
    done: Path, cluster: tuple[str, str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def put(_ledger: Ledger, _rows: object) -> None:
            raise Killed

        patch.setattr(Ledger, "put_let_go", put)
        with pytest.raises(Killed):
            upscale_job(asked(done, cluster))
    assert let_go(done) == {}
    assert (pixels(done, "source.zarr"), pixels(done, "sr.zarr")) == (4, 9 + 4 + 4 + 4)


KILLING = """
import os, signal, sys
from pathlib import Path
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest
from pipeline.storage.archive import Archive

delete, calls = Archive.delete_own, 0

def deleting(archive, item):
    global calls
    calls += 1
    delete(archive, item)
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Archive.delete_own = deleting
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    upscale_job(UpscaleRequest(
        src=str(folder / "in"), job_dir=folder / "job", export_dir=folder / "out", keep="export",
        model="bicubic-x2", tile_px=32, device="cpu", precision="fp32", workers=1,
    ))
"""


@pytest.mark.slow
def test_kill_9_between_two_pictures(done: Path, cluster: tuple[str, str], tmp_path: Path) -> None:
    script = tmp_path / "killing.py"
    write_atomic(script, KILLING.encode())
    told = subprocess.run(
        [sys.executable, str(script), str(done)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == -signal.SIGKILL, told.stderr[-2000:]
    assert len(state(done)["half"]) == 6
    assert pixels(done, "sr.zarr") < 9 + 4 + 4 + 4
    result = upscale_job(asked(done, cluster))
    assert [failure.item for failure in result.later_failures] == ["blocked.png"]
    assert result.computed_units == 0
    assert state(done)["let go"] == {LR: 3, SR: 3}
    assert state(done)["files"] == (1, 4)
