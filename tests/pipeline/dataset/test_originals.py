"""Originals: HR and LR are matched by name, archives give what files give, all becomes 8 bits."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.compute.workers import Workers
from pipeline.dataset.extract import cut, luma8, patches
from pipeline.dataset.originals import decode, develop, list_originals
from pipeline.errors import ArchiveError, PictureError, SourceError, UsageError
from pipeline.jobs.ingest.stage import run_ingest
from pipeline.recipes.preparing import SRGB, PrepareRecipe
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import Ledger
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.dataset.originals import Original, Pictures
    from tests.conftest import SavePicture, TakePhoto


def listed(source: Path, scale: int = 4, **pairs: Path) -> dict[str, Original]:
    found = list_originals(str(source), {n: str(p) for n, p in pairs.items()}, scale=scale)
    return {original.item: original for original in found}


def read(original: Original, *, channels: int = 3, scale: int = 4, pairs: str = "") -> Pictures:
    contents = original.contents()
    return decode(original, contents, channels=channels, scale=scale, pairs=pairs.split())


def touch(folder: Path, *names: str) -> Path:
    """Make files that are told from each other by their content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def partners(source: Path, lr: Path, scale: int = 4) -> dict[str, str | None]:
    """Return, by HR item, which LR item is its own."""
    return {
        item: original.lr["lr"].item if "lr" in original.lr else None
        for item, original in listed(source, scale, lr=lr).items()
    }


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "png")
    return data.getvalue()


# --- listing -----------------------------------------------------------------------------------


def test_files_are_listed_by_item_and_travel_to_workers(tmp_path: Path) -> None:
    found = listed(touch(tmp_path, "b.png", "a/c.png"))
    assert list(found) == ["a/c.png", "b.png"]
    assert found["b.png"].size_bytes == len("b.png")
    assert found["b.png"].address == str(tmp_path / "b.png")
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert again["b.png"].contents() == {"": b"b.png"}


def test_the_hash_of_a_lone_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    original = listed(touch(tmp_path, "b.png"))["b.png"]
    assert original.sha256(original.contents()) == hashlib.sha256(b"b.png").hexdigest()


def test_the_hash_of_a_pair_changes_with_either_file(tmp_path: Path) -> None:
    hr, lr = touch(tmp_path / "hr", "a.png"), touch(tmp_path / "lr", "ax4.png")

    def sha256() -> str:
        original = listed(hr, mild=lr)["a.png"]
        return original.sha256(original.contents())

    before = [sha256(), sha256()]
    (lr / "ax4.png").write_bytes(b"other")
    before.append(sha256())
    (hr / "a.png").write_bytes(b"other")
    before.append(sha256())
    assert before[0] == before[1]
    assert len(set(before)) == 3


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        listed(tmp_path / "missing")
    with pytest.raises(SourceError, match="does not exist"):
        listed(touch(tmp_path / "hr", "a.png"), lr=tmp_path / "missing")


# --- pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lr",
    [
        "0001.png",
        "0001.jpg",
        "0001x4.png",
        "0001x4m.png",
        "0001x4w1.png",
        "X4/0001x4d.png",
        "deep/er/X4/0001x4.png",
        "0001X4.PNG",
        "0001_x4.png",
        "0001-x4.png",
        "0001_LR.png",
        "0001_LR4.png",
        "0001_LRBI_x4.png",
        "0001_lrx4.webp",
    ],
)
def test_an_lr_file_is_found_by_the_name_of_its_hr_file(tmp_path: Path, lr: str) -> None:
    hr = touch(tmp_path / "hr", "0001.png", "0002.png")
    found = listed(hr, mild=touch(tmp_path / "lr", lr))
    assert found["0001.png"].lr["mild"].item == lr
    assert found["0001.png"].contents() == {"": b"0001.png", "mild": lr.encode()}
    assert found["0002.png"].lr == {}


@pytest.mark.parametrize(
    "lr",
    ["0001x2.png", "0001x42mm.png", "0001x4mmm.png", "001x4.png", "0001_LR2.png", "0001_HR.png"],
)
def test_a_file_of_another_scale_or_name_is_nobodys_lr(tmp_path: Path, lr: str) -> None:
    hr = touch(tmp_path / "hr", "0001.png")
    assert partners(hr, touch(tmp_path / "lr", lr)) == {"0001.png": None}


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("index4.png", "index4x4.png"),
        ("inde.png", "index4.png"),
        ("inde.png", "index4x4.png"),
        ("x4.png", "x4x4.png"),
        ("IMG_1.JPG", "img_1x4.png"),
        ("baby_HR.png", "baby_LR.png"),
        ("set5/x4/baby_HR_x4.png", "set5/x4/baby_LRBI_x4.png"),
        ("Canon_001_HR.png", "Canon_001_LR4.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
        ("panasonic_7_x1.png", "panasonic_7_x4.png"),
        ("baby_GT.png", "babyx4.png"),
        ("cafe\u0301.png", "caf\u00e9x4.png"),
    ],
)
def test_a_lone_pair_is_found_however_data_sets_call_it(tmp_path: Path, hr: str, lr: str) -> None:
    expected = None if lr == "index4x4.png" else lr
    expected = lr if hr == "index4.png" else expected
    assert partners(touch(tmp_path / "hr", hr), touch(tmp_path / "lr", lr)) == {hr: expected}


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        # The suffix is the last x4; inde.png must not get what is index4's.
        (["index4x4.png"], [None, "index4x4.png"]),
        (["index4.png", "index4x4.png"], ["index4.png", "index4x4.png"]),
        (["inde.png", "index4.png"], ["inde.png", "index4.png"]),
        (["index4.PNG", "index4x4.jpg"], ["index4.PNG", "index4x4.jpg"]),
    ],
)
def test_a_name_that_ends_like_a_suffix_keeps_its_own_lr(
    tmp_path: Path, lr: list[str], expected: list[str | None]
) -> None:
    hr = touch(tmp_path / "hr", "inde.png", "index4.png")
    found = partners(hr, touch(tmp_path / "lr", *lr))
    assert found == dict(zip(("inde.png", "index4.png"), expected, strict=True))


def test_a_folder_of_both_gives_each_hr_picture_its_own_lr(tmp_path: Path) -> None:
    both = touch(tmp_path, "1.png", "1x4.png", "2.png", "2x4.png")
    found = partners(both, both)
    assert (found["1.png"], found["2.png"]) == ("1x4.png", "2x4.png")
    assert (found["1x4.png"], found["2x4.png"]) == (None, None)


def test_pictures_whose_names_differ_in_case_alone_keep_their_own(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "A.png", "a.png")
    assert partners(hr, touch(tmp_path / "lr", "Ax4.png", "ax4.png")) == {
        "A.png": "Ax4.png",
        "a.png": "ax4.png",
    }


def test_who_could_have_an_lr_file_is_named_where_names_do_not_say_it(tmp_path: Path) -> None:
    lr = touch(tmp_path / "lr", "1x4.png")
    found = listed(touch(tmp_path / "hr", "a/1.png", "b/1.png"), lr=lr)
    assert found["a/1.png"].lr == found["b/1.png"].lr == {}
    with pytest.raises(SourceError, match=r"1x4\.png could be of a/1\.png or b/1\.png; name it"):
        decode(found["a/1.png"], {"": png()}, channels=3, scale=4, pairs=["lr"])
    found = listed(touch(tmp_path / "one", "1.tif"), lr=touch(lr, "1x4.jpg"))
    with pytest.raises(SourceError, match=r"1\.tif could have 1x4\.jpg or 1x4\.png; leave one"):
        decode(found["1.tif"], {"": png()}, channels=3, scale=4, pairs=["lr"])
    # Its own extension says which.
    assert partners(touch(tmp_path / "png", "1.png"), lr) == {"1.png": "1x4.png"}


def test_of_all_scales_in_one_folder_the_wanted_one_is_taken(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "1.png")
    lr = touch(tmp_path / "lr", "X2/1x2.png", "X3/1x3.png", "X4/1x4.png")
    for scale in (2, 3, 4):
        assert partners(hr, lr, scale) == {"1.png": f"X{scale}/1x{scale}.png"}


def test_each_version_is_found_in_its_own_source(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "1.png")
    mild, wild = touch(tmp_path / "m", "1x4m.png"), touch(tmp_path / "w", "1x4w2.png")
    original = listed(hr, mild=mild, wild=wild)["1.png"]
    assert {name: file.item for name, file in original.lr.items()} == {
        "mild": "1x4m.png",
        "wild": "1x4w2.png",
    }


def test_of_two_candidates_the_one_in_a_like_folder_is_taken(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "train/a/1.png", "valid/a/1.png")
    lr = touch(tmp_path / "lr", "train/a/1x4.png", "valid/a/1x4.png")
    assert partners(hr, lr) == {
        "train/a/1.png": "train/a/1x4.png",
        "valid/a/1.png": "valid/a/1x4.png",
    }


def test_a_picture_at_the_top_is_not_given_the_lr_of_one_in_a_folder(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "z.png", "a/z.png")
    lr = touch(tmp_path / "lr", "zx4.png", "a/zx4.png")
    assert partners(hr, lr) == {"z.png": "zx4.png", "a/z.png": "a/zx4.png"}


def test_no_lr_file_is_that_of_two_pictures(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "a/1.png", "b/1.png")
    lr = touch(tmp_path / "lr", "a/1x4.png")
    assert partners(hr, lr) == {"a/1.png": "a/1x4.png", "b/1.png": None}
    # Nothing tells whose it is.
    other = touch(tmp_path / "other", "1x4.png")
    assert partners(hr, other) == {"a/1.png": None, "b/1.png": None}


def test_texts_beside_the_pictures_are_left_out(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "1.png", "1.json", "readme.txt")
    lr = touch(tmp_path / "lr", "1.txt", "1x4.png", "readme.txt")
    assert partners(hr, lr) == {"1.png": "1x4.png"}


def test_one_file_of_each_is_a_pair(tmp_path: Path) -> None:
    folder = touch(tmp_path, "1.png", "1x4.png")
    assert partners(folder / "1.png", folder / "1x4.png") == {"1.png": "1x4.png"}


def test_a_pair_is_cut_to_what_the_scale_divides(
    tmp_path: Path, photo: TakePhoto, save: SavePicture
) -> None:
    hr, lr = photo(43, 50), photo(10, 12, at=200)
    save(tmp_path / "hr" / "1.png", hr)
    save(tmp_path / "lr" / "1x4.png", lr)
    original = listed(tmp_path / "hr", mild=tmp_path / "lr")["1.png"]
    found = read(original, pairs="mild")
    np.testing.assert_array_equal(found.hr, hr[:, :40, :48])
    np.testing.assert_array_equal(found.lr["mild"], lr)
    # Where no LR file is wanted, nothing is lost.
    np.testing.assert_array_equal(read(original).hr, hr)
    assert read(original).lr == {}


@pytest.mark.parametrize("size", [(10, 13), (11, 12), (12, 10), (43, 50), (5, 6), (1, 1)])
def test_an_lr_picture_of_another_size_is_refused_with_both_sizes(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, size: tuple[int, int]
) -> None:
    save(tmp_path / "hr" / "1.png", photo(43, 50))
    save(tmp_path / "lr" / "1x4.png", photo(*size))
    message = rf"1x4\.png is {size[0]}x{size[1]} px, expected 10x12 px"
    with pytest.raises(PictureError, match=message):
        read(listed(tmp_path / "hr", mild=tmp_path / "lr")["1.png"], pairs="mild")


def test_a_missing_lr_picture_is_named(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> None:
    save(tmp_path / "hr" / "1.png", photo(8, 8))
    lr = touch(tmp_path / "lr", "2x4.png")
    with pytest.raises(
        SourceError, match=r"1\.png has no partner .* of 'mild', expected one called 1 or 1x4"
    ):
        read(listed(tmp_path / "hr", mild=lr)["1.png"], pairs="mild")


def test_an_lr_file_that_is_no_picture_is_named(
    tmp_path: Path, photo: TakePhoto, save: SavePicture
) -> None:
    save(tmp_path / "hr" / "1.png", photo(8, 8))
    lr = touch(tmp_path / "lr", "1x4.png")
    with pytest.raises(PictureError, match=r"1x4\.png"):
        read(listed(tmp_path / "hr", mild=lr)["1.png"], pairs="mild")


def test_both_of_a_pair_become_grey_or_rgb(
    tmp_path: Path, photo: TakePhoto, save: SavePicture
) -> None:
    hr, lr = photo(8, 12), photo(2, 3, channels=1)
    save(tmp_path / "hr" / "1.png", hr)
    save(tmp_path / "lr" / "1x4.png", lr, mode="L")
    original = listed(tmp_path / "hr", mild=tmp_path / "lr")["1.png"]
    grey, colour = (read(original, channels=c, pairs="mild") for c in (1, 3))
    np.testing.assert_array_equal(grey.hr, luma8(hr)[None])
    np.testing.assert_array_equal(grey.lr["mild"], lr)
    np.testing.assert_array_equal(colour.hr, hr)
    np.testing.assert_array_equal(colour.lr["mild"], np.repeat(lr, 3, axis=0))


# --- archives ----------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path, client: Client, photo: TakePhoto, save: SavePicture) -> Path:
    """Ingest ``tmp_path / "in"``: odd kinds, a copyright, and enough small ones for a stack."""
    kinds: dict[str, tuple[int, str]] = {
        "a/rgb.png": (3, "uint8"),
        "deep.png": (3, "uint16"),
        "grey.png": (1, "uint8"),
        "grey16.png": (1, "uint16"),
        "float.tif": (3, "float32"),
        "alpha.png": (4, "uint8"),
    }
    for name, (channels, dtype) in kinds.items():
        save(tmp_path / "in" / name, photo(60, 70, channels, dtype))
    exif = Image.Exif()
    exif[33432] = "Ann"
    exif[274] = 6
    Image.fromarray(np.moveaxis(photo(50, 40), 0, 2)).save(tmp_path / "in" / "owned.jpg", exif=exif)
    for number in range(70):
        save(tmp_path / "in" / f"face{number}.png", photo(20, 16, at=number))
    with closing(Ledger.open_file(tmp_path / "l.sqlite", job="t")) as ledger:
        run_ingest(
            str(tmp_path / "in"),
            archive_dir=tmp_path / "a.zarr",
            ledger=ledger,
            workers=Workers.of(client),
        )
    return tmp_path / "a.zarr"


def outcome(original: Original, channels: int) -> Any:
    """Return all that a picture gives, or the words of its error."""
    wanted = PrepareRecipe(
        name="n", scale=2, extract="random", patch_hr_px=12, count=3, channels=channels
    )
    try:
        found = read(original, channels=channels, scale=2)
    except PictureError as error:
        return str(error)
    corners = cut(found.hr, wanted, item=original.item).corners
    made = patches(found.hr, corners, (12, 12))
    sha256 = original.sha256(original.contents())
    return corners.tolist(), made.tolist(), found.copyright, sha256, original.size_bytes


@pytest.mark.slow
def test_an_archive_gives_the_patches_of_its_files(tmp_path: Path, archive: Path) -> None:
    files, items = listed(tmp_path / "in"), listed(archive)
    assert list(items) == list(files)
    assert Archive.open(archive).stacks()
    for channels in (1, 3):
        for name, file in files.items():
            assert outcome(items[name], channels) == outcome(file, channels), name
    assert read(items["owned.jpg"]).copyright == "Ann"
    assert read(items["owned.jpg"]).hr.shape == (3, 40, 50)
    assert "float32" in outcome(items["float.tif"], 3)
    assert "transparent" in outcome(items["alpha.png"], 3)

    with pytest.raises(UsageError, match=r"is an archive, but --lr pairs files"):
        listed(archive, lr=tmp_path / "in")
    assert pickle.loads(pickle.dumps(items)) == items
    # A damaged item is listed, so that it is told of.
    (archive / "a" / "rgb.png" / "zarr.json").write_text("{")
    with pytest.raises(ArchiveError, match=r"a/rgb\.png"):
        read(listed(archive)["a/rgb.png"])


def test_a_zarr_group_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with pytest.raises(ArchiveError, match="no archive that upres wrote"):
        listed(tmp_path)


def test_an_original_of_neither_is_refused(tmp_path: Path) -> None:
    original = replace(listed(touch(tmp_path, "a.png"))["a.png"], file=None)
    with pytest.raises(SourceError, match="neither a file nor an archive"):
        read(original)


# --- pixels ------------------------------------------------------------------------------------


def as_uint8(pixels: NDArray[Any], *, channels: int, name: str) -> NDArray[np.uint8]:
    return develop(pixels, None, {}, colour=SRGB, channels=channels, name=name)


@examples(30)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
def test_16_bits_are_rounded_to_the_nearest_of_8(values: list[int]) -> None:
    pixels = np.array(values, dtype=np.uint16).reshape(1, 1, -1)
    found = as_uint8(pixels, channels=1, name="a")
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [int(value / 257 + 0.5) for value in values]


def test_16_bits_that_were_8_come_back_unchanged() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    deep = levels.astype(np.uint16) * np.uint16(257)
    np.testing.assert_array_equal(as_uint8(deep, channels=1, name="a"), levels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("found", [1, 2, 3, 4])
def test_every_kind_becomes_grey_or_rgb(
    found: int, channels: int, dtype: str, photo: TakePhoto
) -> None:
    pixels: NDArray[Any] = photo(9, 11, found, dtype)
    if found in (2, 4):
        pixels[-1] = np.iinfo(dtype).max
    made = as_uint8(pixels, channels=channels, name="a")
    colours = photo(9, 11, 3 if found > 2 else 1)
    if channels == 1:
        expected = luma8(colours)[None]
    else:
        expected = colours if found > 2 else np.repeat(colours, 3, axis=0)
    assert made.shape == (channels, 9, 11)
    # One less in 65535 is the same in 255.
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [2, 4])
def test_a_picture_with_one_pixel_not_quite_opaque_is_refused(channels: int, dtype: str) -> None:
    pixels = np.full((channels, 5, 5), np.iinfo(dtype).max, dtype=dtype)
    as_uint8(pixels, channels=3, name="a.png")
    pixels[-1, 4, 4] -= 1
    with pytest.raises(PictureError, match=r"a\.png is transparent in places"):
        as_uint8(pixels, channels=3, name="a.png")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 2, 2), np.float32), r"a\.tif is float32, expected 8 or 16 bits"),
        (np.zeros((3, 2, 2), np.int16), r"a\.tif is int16"),
        (np.zeros((5, 2, 2), np.uint8), r"a\.tif has 5 channels, expected grey or RGB"),
    ],
)
def test_what_is_neither_8_nor_16_bits_or_has_other_channels_is_refused(
    pixels: NDArray[Any], message: str
) -> None:
    with pytest.raises(PictureError, match=message):
        as_uint8(pixels, channels=3, name="a.tif")


def test_a_cmyk_picture_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "c.jpg")
    with pytest.raises(PictureError, match=r"c\.jpg.*CMYK"):
        read(listed(tmp_path)["c.jpg"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_and_keeps_its_owner(
    tmp_path: Path, photo: TakePhoto, orientation: int
) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[274], exif[33432] = orientation, "Ann"
    pixels = photo(6, 9)
    Image.fromarray(np.moveaxis(pixels, 0, 2)).save(file, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    found = read(listed(tmp_path)["a.png"])
    assert found.copyright == "Ann"
    turned = [
        pixels,
        pixels[:, :, ::-1],
        pixels[:, ::-1, ::-1],
        pixels[:, ::-1],
        pixels.transpose(0, 2, 1),
        np.rot90(pixels, -1, (1, 2)),
        pixels[:, ::-1, ::-1].transpose(0, 2, 1),
        np.rot90(pixels, 1, (1, 2)),
    ]
    np.testing.assert_array_equal(found.hr, turned[orientation - 1])
