"""Export: the tree and the metadata come back, and nothing is written that is not done."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.compute.status import read_status
from pipeline.errors import UsageError
from pipeline.geometry import Rect, Span
from pipeline.jobs.export.export_plan import plan_export
from pipeline.jobs.export.names import file_names
from pipeline.jobs.export.request import ExportRequest
from pipeline.jobs.export.stage import ExportResult, run_export
from pipeline.pictures.files import read_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.job import Job
    from tests.conftest import SavePicture, TakePhoto, Upscale


class Export(Protocol):
    def __call__(self, job: Job, format: str = "same") -> tuple[int, list[Failure]]: ...


class FullExport(Protocol):
    def __call__(self, job: Job, **request: Any) -> ExportResult: ...


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def exported(client: Client, out: Path) -> FullExport:
    """Export below `out`, unless the request names another folder, and return all of the result."""

    def run(job: Job, **request: Any) -> ExportResult:
        with closing(job.open_ledger()) as ledger:
            status = read_status(job.folder, ledger)
            wanted = ExportRequest(**{"out_dir": out, **request})
            plan = plan_export(job, status, ledger=ledger, request=wanted)
            return run_export(plan, ledger=ledger, client=client)

    return run


@pytest.fixture
def export(exported: FullExport) -> Export:
    """Export, and return how many were written and what was not."""

    def run(job: Job, format: str = "same") -> tuple[int, list[Failure]]:
        result = exported(job, format=format)
        return result.written, list(result.failures)

    return run


def stored(job: Job, item: str) -> NDArray[Any]:
    image = job.open_sr().image(item)
    return image.read(Rect(Span(0, image.size[0]), Span(0, image.size[1])))


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def pixels_of(path: Path) -> NDArray[Any]:
    return read_picture(path.read_bytes(), name=path.name).pixels


def test_the_tree_is_mirrored_with_every_pixel(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    names = ["a.png", "b/c.tif", "b/d/e.webp", "b/d/f.PNG"]
    for n, name in enumerate(names):
        save(source / name, photo(30 + n, 40))
    job = upscale(source, out.parent / "job").job
    assert export(job) == (4, [])
    assert files(out) == sorted(names)
    for name in ("a.png", "b/c.tif", "b/d/f.PNG"):
        np.testing.assert_array_equal(pixels_of(out / name), stored(job, name))


def test_every_format_can_be_asked_for(
    source: Path,
    out: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    exported: FullExport,
) -> None:
    save(source / "x/a.png", photo(40, 52))
    job = upscale(source, out.parent / "job").job
    for format, suffix in {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp"}.items():
        result = exported(job, format=format, out_dir=out / format)
        assert (result.written, result.failures) == (1, ())
        assert files(out / format) == [f"x/a{suffix}"]
        with Image.open(out / format / f"x/a{suffix}") as picture:
            assert picture.format is not None
            assert picture.format.lower() == format
        found = pixels_of(out / format / f"x/a{suffix}").astype(int)
        lossless = format in ("png", "tiff")
        assert abs(found - stored(job, "x/a.png")).mean() <= (0 if lossless else 4), format


@pytest.mark.parametrize(
    ("channels", "dtype", "format"),
    [(1, "uint8", "png"), (4, "uint8", "png"), (4, "uint16", "png"), (1, "float32", "tiff")],
)
def test_alpha_and_depth_are_kept(
    channels: int,
    dtype: str,
    format: str,
    source: Path,
    out: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    export: Export,
) -> None:
    save(source / "a.tif", photo(30, 40, channels, dtype))
    job = upscale(source, out.parent / "job").job
    assert export(job, format) == (1, [])
    (name,) = files(out)
    found = pixels_of(out / name)
    assert (found.dtype, found.shape) == (dtype, (channels, 60, 80))
    np.testing.assert_array_equal(found, stored(job, "a.tif"))


def test_colour_profile_and_exif_are_kept(
    source: Path, out: Path, photo: TakePhoto, upscale: Upscale, exported: FullExport
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    exif[0x0112] = 6  # to be turned by 90 degrees
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source.mkdir()
    picture = Image.fromarray(np.moveaxis(photo(30, 40), 0, 2))
    picture.save(source / "a.jpg", exif=exif, icc_profile=icc)
    job = upscale(source, out.parent / "job").job
    for format in ("same", "png", "tiff", "webp"):
        result = exported(job, format=format, out_dir=out / format)
        assert (result.written, result.failures) == (1, ())
        (name,) = files(out / format)
        with Image.open(out / format / name) as there:
            assert there.size == (60, 80), "turned upright, then doubled"
            assert there.info["icc_profile"] == icc, format
            assert there.getexif()[0x010F] == "A maker", format
            assert there.getexif().get(0x0112, 1) == 1, "not to be turned twice"


def test_two_items_that_would_get_one_name_both_survive(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    for n, name in enumerate(("a.jpg", "a.png", "a.jpg.png")):
        save(source / name, photo(30, 40, at=60 * n))
    job = upscale(source, out.parent / "job").job
    assert export(job, "png") == (3, [])
    assert len(files(out)) == 3
    np.testing.assert_array_equal(pixels_of(out / "a.png"), stored(job, "a.png"))
    np.testing.assert_array_equal(pixels_of(out / "a.jpg.png"), stored(job, "a.jpg.png"))


def test_a_picture_without_or_with_a_wrong_extension_is_named_by_what_it_is(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    save(source / "a.png", photo(30, 40))
    data = (source / "a.png").read_bytes()
    (source / "a").write_bytes(data)
    (source / "b.jpg").write_bytes(data)
    job = upscale(source, out.parent / "job").job
    assert export(job) == (3, [])
    assert len(files(out)) == 3
    for name in files(out):
        assert read_picture((out / name).read_bytes(), name=name).metadata.format == "png"
    assert "b.png" in files(out)


NAMES = st.from_regex(r"(x/)?[ab](\.(png|jpg|tif|PNG|txt)){0,3}", fullmatch=True)


@given(st.sets(NAMES, min_size=1), st.sampled_from(["png", "jpeg", "tiff", "webp"]))
def test_no_two_items_ever_share_a_name(items: set[str], format: str) -> None:
    names = file_names(items, format=format)
    assert set(names) == items
    assert len(set(names.values())) == len(items)
    for item, name in names.items():
        assert Path(name).parent == Path(item).parent


def test_what_is_not_done_is_listed_and_not_written(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    save(source / "a.png", photo(40, 40))
    save(source / "b.png", photo(40, 40))
    job = upscale(source, out.parent / "job").job
    ledger = job.open_ledger()
    ledger.forget_units(["b.png"])
    ledger.close()
    written, (failure,) = export(job)
    assert written == 1
    assert files(out) == ["a.png"]
    assert (failure.item, failure.error) == ("b.png", "NotDone")
    assert "0 of 4 tiles" in failure.message


def test_an_alpha_picture_as_jpeg_is_a_failure_with_its_reason(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    save(source / "alpha.png", photo(30, 40, 4))
    save(source / "plain.png", photo(30, 40))
    job = upscale(source, out.parent / "job").job
    written, (failure,) = export(job, "jpeg")
    assert written == 1
    assert files(out) == ["plain.jpg"], "and no partial file"
    assert (failure.item, failure.error) == ("alpha.png", "PictureError")
    assert "JPEG cannot hold" in failure.message
    assert "4 channels" in failure.message


def test_a_damaged_shard_is_a_failure_and_no_file(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    save(source / "a.png", photo(40, 40))
    save(source / "b.png", photo(40, 40))
    job = upscale(source, out.parent / "job").job
    shard = next(p for p in (job.sr_dir / "a.png" / "0" / "c").rglob("*") if p.is_file())
    shard.write_bytes(b"\0" * 10)
    written, (failure,) = export(job)
    assert (written, failure.item, failure.error) == (1, "a.png", "ArchiveError")
    assert files(out) == ["b.png"]


def test_a_second_export_replaces_the_first(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    save(source / "a.png", photo(40, 40))
    export(upscale(source, out.parent / "job").job)
    job = upscale(source, out.parent / "job", model="nearest-x3").job
    export(job)
    np.testing.assert_array_equal(pixels_of(out / "a.png"), stored(job, "a.png"))
    assert files(out) == ["a.png"]


def test_an_unknown_format_is_wrong_usage(
    source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, export: Export
) -> None:
    save(source / "a.png", photo(20, 20))
    job = upscale(source, out.parent / "job").job
    with pytest.raises(UsageError, match="gif"):
        export(job, "gif")


def test_an_export_never_takes_the_place_of_its_source(
    source: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, exported: FullExport
) -> None:
    path = save(source / "a.png", photo(20, 20))
    before = path.read_bytes()
    job = upscale(source, source.parent / "job").job
    with pytest.raises(UsageError, match="in the source"):
        exported(job, out_dir=source)
    assert path.read_bytes() == before
