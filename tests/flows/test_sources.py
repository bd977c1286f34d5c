"""What the commands say about their source: nothing of it is passed over in silence."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto

NEAREST = ("--model", "nearest-x2", "--tile", "64", "--device", "cpu")


@pytest.fixture
def source(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """A good picture among what cameras, programs and network storage leave."""
    folder = tmp_path / "source"
    save(folder / "IMG_1.JPG", photo(20, 30))
    save(folder / "@eaDir/IMG_1.JPG/THUMB.jpg", photo(8, 8))
    save(folder / "#recycle/old.png", photo(8, 8))
    for name in ("IMG_1.xmp", "IMG_1.AAE", "IMG_1.JPG.json", "notes.txt", "IMG_1.JPG.pp3"):
        (folder / name).write_text("<words/>")
    (folder / "IMG_1.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(20))
    return folder


LEFT_OUT = (
    "left out: 2 files of litter (#recycle 1, @eaDir 1); "
    "5 sidecars (.aae 1, .json 1, .pp3 1, .txt 1, .xmp 1); "
    "1 file that is not a picture (.mov 1)"
)


def test_a_night_of_good_pictures_among_sidecars_ends_with_0_and_tells_what_it_left_out(
    upres: Command, cluster: tuple[str, str], source: Path, tmp_path: Path
) -> None:
    job, out = tmp_path / "job", tmp_path / "out"
    said = upres("upscale", source, job, *NEAREST, "--export", out, *cluster)
    assert said.code == 0
    assert said.err.splitlines()[-1] == LEFT_OUT
    assert [str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()] == ["IMG_1.JPG"]
    again = upres("upscale", source, job, *NEAREST, *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 0)
    assert again.document["left_out"] == {
        "litter": 2,
        "hidden": 0,
        "sidecars": 5,
        "not_pictures": 1,
        "of_upres": 0,
        "repeated_folders": 0,
        "special": 0,
    }
    assert again.document["remarks"] == [LEFT_OUT]


def test_a_text_that_an_older_upres_rejected_is_no_failure_any_more(
    upres: Command, cluster: tuple[str, str], source: Path, tmp_path: Path
) -> None:
    from contextlib import closing

    from pipeline.storage.ledger import REJECTED, ItemRow, Ledger

    archive = tmp_path / "lr.zarr"
    assert upres("ingest", source, archive, *cluster).code == 0
    row = ItemRow(item="notes.txt", state=REJECTED, error="PictureError", message="is text")
    with closing(Ledger.open_file(tmp_path / "lr.zarr.ledger.sqlite", job="ingest")) as ledger:
        ledger.put_items([row])
    said = upres("ingest", source, archive, *cluster, "--json")
    assert (said.code, said.document["items"]["rejected"]) == (0, 0)


def test_the_glob_of_the_documents_takes_what_cameras_write(
    upres: Command, cluster: tuple[str, str], source: Path, tmp_path: Path
) -> None:
    said = upres("ingest", f"{source}/**/*.jpg", tmp_path / "lr.zarr", *cluster, "--json")
    assert (said.code, said.document["items"]["done"]) == (0, 1)
    assert list(Archive.open(tmp_path / "lr.zarr").items()) == ["IMG_1.JPG"]


def test_a_real_failure_is_the_first_line_however_many_others_there_are(
    upres: Command, cluster: tuple[str, str], source: Path, tmp_path: Path
) -> None:
    for number in range(25):
        (source / f"a{number}.gif").write_bytes(b"GIF89a")
    (source / "zz.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    said = upres("ingest", source, tmp_path / "lr.zarr", *cluster)
    assert said.code == 3
    lines = [line for line in said.err.splitlines() if not line.startswith("ingest:")]
    assert lines[0].startswith("  zz.png: PictureError: chunk")
    assert lines[1].startswith("  a0.gif: UnsupportedError: the file is a GIF, expected JPEG")
    assert lines[1].endswith("(and 24 more like this)")
    assert lines[2:] == [LEFT_OUT]


def test_names_of_a_zip_are_read_as_the_user_says(
    upres: Command, cluster: tuple[str, str], source: Path, tmp_path: Path
) -> None:
    comic = tmp_path / "manga.cbz"
    with zipfile.ZipFile(comic, "w") as archive:
        archive.writestr("XXXX.jpg", (source / "IMG_1.JPG").read_bytes())
    comic.write_bytes(comic.read_bytes().replace(b"XXXX", "表紙".encode("cp932")))
    said = upres("ingest", comic, tmp_path / "lr.zarr", "--names", "cp932", *cluster)
    assert said.code == 0
    assert list(Archive.open(tmp_path / "lr.zarr").items()) == ["表紙.jpg"]
    other = upres("ingest", comic, tmp_path / "lr.zarr", *cluster)
    assert other.code == 1
    assert "--names" in other.err


@pytest.mark.parametrize("command", ["ingest", "upscale", "prepare"])
def test_an_unknown_encoding_is_wrong_usage_and_makes_nothing(
    command: str, upres: Command, source: Path, tmp_path: Path
) -> None:
    said = upres(command, source, tmp_path / "made", "--names", "sijs")
    assert said.code == 2
    assert "'sijs', expected an encoding of file names; did you mean sjis" in said.err
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_was_exported_is_not_upscaled_the_next_night_through_a_link(
    upres: Command, cluster: tuple[str, str], source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (source / "larger").symlink_to(out)
    words = ("upscale", source, tmp_path / "job", *NEAREST, "--export", out, *cluster, "--json")
    first, second = upres(*words), upres(*words)
    assert (first.code, second.code) == (3, 2)  # The link led nowhere at first.
    assert "the next run would upscale" in second.err
