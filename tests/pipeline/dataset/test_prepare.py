"""Preparing: what is in a dataset, and what a second run does to it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.chain import Degradation
from pipeline.pictures.files import read_picture
from pipeline.storage.dataset import HR, Dataset
from pipeline.storage.manifest import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Begun, Command, Digest, Said, SavePicture, TakePhoto

RECIPE = """
name = "small"
scale = 2
channels = 3
seed = 7

[prepare]
extract = "grid"
patch_hr_px = 16
stride_px = 8
degradations = [{ name = "bicubic" }, { name = "noise" }]
split = { validation = 0.25, test = 0.25 }
"""
BICUBIC = Degradation.from_table({"name": "bicubic"}, scale=2)
NOISE = Degradation.from_table({"name": "noise"}, scale=2)


class Prepare(Protocol):
    def __call__(self, source: Path, folder: Path, *words: object) -> Said: ...


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def prepare(upres: Command, cluster: tuple[str, str], recipe: Path) -> Prepare:
    """Prepare by the small recipe, on the session's workers."""

    def run(source: Path, folder: Path, *words: object) -> Said:
        given = ("prepare", source, folder, "--recipe", recipe, *cluster, "--json", *words)
        return upres(*given)

    return run


@pytest.fixture
def place(begun: Begun, photo: TakePhoto, save: SavePicture, prepare: Prepare) -> Path:
    """Return a folder with `pictures`, and with the dataset that was prepared of them."""

    def make(folder: Path) -> None:
        for n, name in enumerate(("a.png", "b/b.png", "c.png", "d.png")):
            save(folder / "pictures" / name, photo(144, 160, at=60 * n))
        assert prepare(folder / "pictures", folder / "set").code == 0

    return begun.as_made_by(make)


@pytest.fixture
def pictures(place: Path) -> Path:
    """Four pictures of which each gives some hundred patches: more than a chunk together."""
    return place / "pictures"


@pytest.fixture
def prepared(place: Path) -> Path:
    """The dataset that was prepared of `pictures`."""
    return place / "set"


def pixels_of(folder: Path, item: str) -> Any:
    return read_picture((folder / item).read_bytes(), name=item).pixels


def origins(dataset: Dataset) -> dict[str, list[tuple[int, int, int, int]]]:
    """Return (row, top, left, seed) of every patch, by item."""
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for chunk, manifest in enumerate(dataset.manifests()):
        first = chunk * dataset.spec.chunk_patches
        columns = (manifest.places, manifest.pictures, manifest.corners, manifest.seeds)
        for place, picture, corner, seed in zip(*(c.tolist() for c in columns), strict=True):
            item = manifest.origins[picture].item
            found.setdefault(item, []).append((first + place, *corner, seed))
    return found


def test_each_patch_is_the_window_that_its_manifest_names_and_its_lr_is_that_degraded(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    said = prepare(pictures, tmp_path / "set")
    assert said.code == 0
    dataset = Dataset.open(tmp_path / "set")
    assert len(dataset) == 4 * 17 * 19 == sum(said.document["patches"].values())
    assert dataset.chunks == 2
    for item, patches in origins(dataset).items():
        rows, tops, lefts, seeds = (np.array(column) for column in zip(*patches, strict=True))
        whole = pixels_of(pictures, item)
        hr = np.stack([whole[:, t : t + 16, x : x + 16] for t, x in zip(tops, lefts, strict=True)])
        np.testing.assert_array_equal(dataset.read(HR, rows), hr)
        for degradation in (BICUBIC, NOISE):
            lr = degrade_patches(hr, seeds.tolist(), degradation, scale=2)
            np.testing.assert_array_equal(dataset.read(f"lr_{degradation.name}", rows), lr)
    assert len({seed for patches in origins(dataset).values() for *_, seed in patches}) == 4 * 323


def test_a_picture_is_all_in_one_split(pictures: Path, tmp_path: Path, prepare: Prepare) -> None:
    document = prepare(pictures, tmp_path / "set").document
    assert document["patches"] == {"train": 2 * 323, "validation": 323, "test": 323}
    dataset = Dataset.open(tmp_path / "set")
    splits = dataset.splits()
    for patches in origins(dataset).values():
        assert len({splits[row] for row, *_ in patches}) == 1


@pytest.mark.slow
def test_the_same_bytes_with_one_worker_with_two_and_with_three_and_from_an_archive_of_them(
    pictures: Path,
    prepared: Path,
    tmp_path: Path,
    upres: Command,
    prepare: Prepare,
    cluster: tuple[str, str],
    recipe: Path,
    digest: Digest,
) -> None:
    for workers in (1, 3):
        words = ("prepare", pictures, tmp_path / f"with-{workers}", "--recipe", recipe)
        assert upres(*words, "--workers", workers).code == 0
        assert digest(tmp_path / f"with-{workers}") == digest(prepared)
    assert upres("ingest", pictures, tmp_path / "pictures.zarr", *cluster).code == 0
    assert prepare(tmp_path / "pictures.zarr", tmp_path / "from-archive").code == 0
    assert digest(tmp_path / "from-archive") == digest(prepared)


def test_a_second_run_computes_nothing_and_changes_no_byte(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest
) -> None:
    before = digest(prepared)
    assert prepare(pictures, prepared).document["computed_units"] == 0
    assert digest(prepared) == before


def shards(hashes: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in hashes.items() if name.startswith(("hr/c", "lr_"))}


def test_new_pictures_are_appended_and_the_others_keep_their_rows_bytes_and_splits(
    pictures: Path,
    prepared: Path,
    prepare: Prepare,
    digest: Digest,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    before, rows = digest(prepared), origins(Dataset.open(prepared))
    splits = Dataset.open(prepared).splits()
    save(pictures / "aa.png", photo(100, 100, at=200))
    document = prepare(pictures, prepared).document
    assert document["computed_units"] == 1
    assert sum(document["patches"].values()) == 4 * 323 + 121
    now = digest(prepared)
    dataset = Dataset.open(prepared)
    changed = {n for n, value in shards(before).items() if now[n] != value}
    assert not {name for name in changed if not name.endswith("zarr.json")}
    assert {item: origins(dataset)[item] for item in rows} == rows
    np.testing.assert_array_equal(dataset.splits()[: len(splits)], splits)


@pytest.mark.slow
def test_a_changed_picture_leaves_its_rows_and_gets_others(
    pictures: Path,
    prepared: Path,
    prepare: Prepare,
    digest: Digest,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    before, rows = digest(prepared), origins(Dataset.open(prepared))
    was = Dataset.open(prepared).splits()[rows["a.png"][0][0]]
    save(pictures / "a.png", photo(96, 96, at=300))
    document = prepare(pictures, prepared).document
    assert document["computed_units"] == 1
    dataset = Dataset.open(prepared)
    splits, now = dataset.splits(), origins(dataset)
    assert {splits[row] for row, *_ in rows["a.png"]} == {255}
    assert {splits[row] for row, *_ in now["a.png"]} == {was}
    assert {item: now[item] for item in now if item != "a.png"} == {
        item: rows[item] for item in rows if item != "a.png"
    }
    mine = np.array([row for row, *_ in now["a.png"]])
    whole = pixels_of(pictures, "a.png")
    hr = np.stack([whole[:, t : t + 16, x : x + 16] for _, t, x, _ in now["a.png"]])
    np.testing.assert_array_equal(dataset.read(HR, mine), hr)
    same = {n for n, value in shards(before).items() if digest(prepared)[n] == value}
    assert {n for n in shards(before) if "/c." in n} <= same
    assert prepare(pictures, prepared).document["computed_units"] == 0


@pytest.mark.slow
def test_a_changed_picture_that_now_gives_nothing_leaves_its_rows(
    pictures: Path, tmp_path: Path, prepare: Prepare, save: SavePicture
) -> None:
    flat = ("--set", "least_variance=1")
    prepare(pictures, tmp_path / "set", *flat)
    save(pictures / "a.png", np.full((3, 96, 96), 77, np.uint8))
    for _ in range(2):
        said = prepare(pictures, tmp_path / "set", *flat)
        assert said.code == 0
        assert "a.png" not in origins(Dataset.open(tmp_path / "set"))


def test_a_picture_that_vanished_is_told_of_and_its_patches_stay(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    before = prepare(pictures, tmp_path / "set").document["patches"]
    (pictures / "c.png").unlink()
    said = prepare(pictures, tmp_path / "set")
    assert said.code == 0
    assert said.document["items"]["vanished"] == 1
    assert said.document["patches"] == before


def test_broken_tiny_and_text_files_are_recorded_with_the_reason_and_the_rest_goes_on(
    pictures: Path, tmp_path: Path, prepare: Prepare, save: SavePicture, photo: TakePhoto
) -> None:
    whole = (pictures / "a.png").read_bytes()
    (pictures / "broken.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "notes.txt").write_text("hello")
    (pictures / "notes.png").write_text("hello")
    save(pictures / "tiny.png", photo(15, 40))
    said = prepare(pictures, tmp_path / "set")
    assert said.code == 3
    assert said.document["items"]["done"] == 4
    told = {failure["item"]: failure["message"] for failure in said.document["failures"]}
    assert set(told) == {"broken.png", "notes.png", "tiny.png"}
    assert "15x40 px, expected at least 16x16 px" in told["tiny.png"]
    assert "text" in told["notes.png"]
    assert said.document["files_left_out"]["sidecars"] == 1
    assert "left out: 1 sidecar (.txt 1)" in said.err
    assert sum(said.document["patches"].values()) == 4 * 323


def test_flat_patches_and_duplicates_are_left_out_and_counted(
    pictures: Path, tmp_path: Path, prepare: Prepare, save: SavePicture, photo: TakePhoto
) -> None:
    half = photo(144, 160)
    half[:, :, 80:] = 128
    save(pictures / "a.png", half)
    shutil.copy(pictures / "c.png", pictures / "copy.png")
    filters = ("--set", "least_variance=2", "--set", "duplicate_bits=0", "--set", "stride_px=16")
    document = prepare(pictures, tmp_path / "set", *filters).document
    assert document["left_out"]["flat"] >= 9 * 5
    assert document["left_out"]["duplicate"] >= 9 * 10 * 0.5
    dataset = Dataset.open(tmp_path / "set")
    assert "copy.png" not in origins(dataset)
    sums = dataset.read(HR, np.arange(len(dataset))).astype(float)
    assert sums.var(axis=(2, 3)).max(axis=1).min() > 0


def test_a_picture_beyond_the_counts_is_left_out_and_told_of(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    counts = [f"split.{name}={n}" for name, n in zip(SPLITS, (1, 1, 1), strict=True)]
    words = [word for setting in counts for word in ("--set", setting)]
    document = prepare(pictures, tmp_path / "set", *words).document
    assert document["patches"] == {"train": 323, "validation": 323, "test": 323}
    assert document["left_out"] == {"no room in any split": 323}
    assert prepare(pictures, tmp_path / "set", *words).document["computed_units"] == 0


def test_pairs_are_cut_at_the_same_places(
    pictures: Path, tmp_path: Path, prepare: Prepare, save: SavePicture
) -> None:
    lr_dir = tmp_path / "lr"
    for item in ("a.png", "c.png", "d.png"):
        small = pixels_of(pictures, item)[:, ::2, ::2] // 2
        save(lr_dir / "X2" / item.replace(".png", "x2.png"), small)
    said = prepare(pictures, tmp_path / "set", "--lr", f"odd={lr_dir}")
    assert said.code == 3
    assert [f["item"] for f in said.document["failures"]] == ["b/b.png"]
    assert "no partner" in said.document["failures"][0]["message"]
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.spec.degradations == ("bicubic", "noise", "odd")
    rows = np.arange(len(dataset))
    expected = dataset.read(HR, rows)[:, :, ::2, ::2] // 2
    np.testing.assert_array_equal(dataset.read("lr_odd", rows), expected)


@pytest.mark.slow
def test_a_changed_lr_file_makes_its_patches_anew(
    pictures: Path, tmp_path: Path, prepare: Prepare, save: SavePicture
) -> None:
    lr_dir = tmp_path / "lr"
    for item in ("a.png", "b/b.png", "c.png", "d.png"):
        save(lr_dir / item, pixels_of(pictures, item)[:, ::2, ::2])
    words = ("--lr", f"bicubic={lr_dir}")
    assert prepare(pictures, tmp_path / "set", *words).code == 0
    save(lr_dir / "c.png", pixels_of(pictures, "c.png")[:, ::2, ::2] // 2)
    assert prepare(pictures, tmp_path / "set", *words).document["computed_units"] == 1
    dataset = Dataset.open(tmp_path / "set")
    rows = np.array([row for row, *_ in origins(dataset)["c.png"]])
    expected = dataset.read(HR, rows)[:, :, ::2, ::2] // 2
    np.testing.assert_array_equal(dataset.read("lr_bicubic", rows), expected)


@pytest.fixture
def mixed_up(tmp_path: Path, pictures: Path, save: SavePicture) -> Path:
    """LR of the pictures: one as it should be, one turned, one shifted, one of another picture."""
    small = {
        item: pixels_of(pictures, item)[:, ::2, ::2]
        for item in ("a.png", "b/b.png", "c.png", "d.png")
    }
    save(tmp_path / "lr" / "a.png", small["a.png"])
    save(tmp_path / "lr" / "b/b.png", small["b/b.png"][:, ::-1, ::-1])
    save(tmp_path / "lr" / "c.png", np.roll(small["c.png"], (2, -3), axis=(1, 2)))
    save(tmp_path / "lr" / "d.png", small["a.png"])
    return tmp_path / "lr"


def test_pairs_whose_content_is_not_one_are_rejected_with_what_they_look_like(
    pictures: Path, mixed_up: Path, tmp_path: Path, prepare: Prepare
) -> None:
    said = prepare(pictures, tmp_path / "set", "--lr", f"odd={mixed_up}")
    assert said.code == 3
    told = {f["item"]: f["message"] for f in said.document["failures"]}
    assert set(told) == {"b/b.png", "c.png", "d.png"}
    assert "b/b.png looks turned by 180 degrees: it differs from" in told["b/b.png"]
    assert "c.png looks shifted by 2 rows and -3 columns of LR pixels" in told["c.png"]
    assert "d.png looks like another picture" in told["d.png"]
    assert all("levels rms" in message and "--unchecked" in message for message in told.values())
    assert set(origins(Dataset.open(tmp_path / "set"))) == {"a.png"}
    # A preview says the same of the pictures that it looks at.
    said = prepare(pictures, tmp_path / "other", "--lr", f"odd={mixed_up}", "--preview")
    assert {f["item"] for f in said.document["failures"]} == set(told)


@pytest.mark.slow
def test_unchecked_pairs_are_taken_and_a_dataset_remembers_that(
    pictures: Path, mixed_up: Path, tmp_path: Path, prepare: Prepare, save: SavePicture
) -> None:
    words = ("--lr", f"odd={mixed_up}")
    assert prepare(pictures, tmp_path / "set", *words).code == 3
    said = prepare(pictures, tmp_path / "set", *words, "--unchecked")
    assert (said.code, said.document["items"]["done"]) == (0, 4)
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.about["unchecked_pairs"] is True
    row = origins(dataset)["d.png"][0][0]
    top, left = origins(dataset)["d.png"][0][1:3]
    lr = pixels_of(mixed_up, "d.png")[:, top // 2 : top // 2 + 8, left // 2 : left // 2 + 8]
    np.testing.assert_array_equal(dataset.read("lr_odd", np.array([row]))[0], lr)
    # Continued without the word, it takes what comes later too.
    save(pictures / "e.png", pixels_of(pictures, "a.png"))
    save(mixed_up / "e.png", pixels_of(mixed_up, "b/b.png"))
    assert prepare(pictures, tmp_path / "set", *words).code == 0


def test_words_that_would_do_nothing_are_refused(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    said = prepare(pictures, tmp_path / "set", "--unchecked")
    assert (said.code, "--unchecked goes with --lr" in said.err) == (2, True)
    for word in ("--check", "--prune"):
        said = prepare(pictures, tmp_path / "set", "--preview", word)
        assert (said.code, "--preview prepares nothing" in said.err) == (2, True)
    said = prepare(pictures, tmp_path / "set", "--set", "count=3")
    assert said.code == 2
    assert 'count is set, but has no effect: extract is "grid", not random' in said.err
    assert not (tmp_path / "set").exists()


def test_what_a_recipe_says_to_no_effect_is_reported(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    said = prepare(pictures, tmp_path / "set", "--set", "extract=random")
    assert said.code == 0
    line = 'stride_px = 8 of recipe small has no effect: extract is "random", not grid'
    assert line in said.err.splitlines()


def test_a_ledger_that_a_deleted_dataset_left_tells_nothing_of_the_next_one(
    pictures: Path, tmp_path: Path, prepare: Prepare, upres: Command
) -> None:
    (pictures / "bad.png").write_bytes(b"bad")
    assert prepare(pictures, tmp_path / "set").document["units"]["done"] == 2
    shutil.rmtree(tmp_path / "set")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(pictures / "a.png", alone / "a.png")
    said = prepare(alone, tmp_path / "set", "--set", "split={}")
    assert said.code == 0
    assert said.document["units"] == {"done": 1, "failed": 0, "pending": 0}
    assert {name: n for name, n in said.document["items"].items() if n} == {"done": 1}
    assert upres("status", tmp_path / "set", "--json").document["failures"] == []


@pytest.mark.slow
def test_a_ledger_of_another_dataset_is_named_until_it_is_mended(
    pictures: Path, tmp_path: Path, prepared: Path, prepare: Prepare, upres: Command
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(pictures / "a.png", alone / "a.png")
    prepare(alone, tmp_path / "one", "--set", "split={}")
    shutil.rmtree(prepared)
    (tmp_path / "one").rename(prepared)
    for command in ("status", "report"):
        said = upres(command, prepared)
        assert said.code == 1
        assert "lists chunk 1, but" in said.err
        assert "run `upres prepare` again" in said.err
    said = prepare(alone, prepared, "--set", "split={}")
    assert said.document["units"] == {"done": 1, "failed": 0, "pending": 0}
    assert said.document["items"]["done"] == 1
    assert upres("status", prepared).code == 0


def wide_gamut() -> bytes:
    """Return an ICC profile whose primaries are those of Display P3, with its curve as gamma 2.2.

    sRGB as littleCMS makes it, with other colourants; its text is changed to tell them apart.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    colourants = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    count = int.from_bytes(profile[128:132], "big")
    for n in range(count):
        entry = 132 + 12 * n
        name, at = bytes(profile[entry : entry + 4]), int.from_bytes(profile[entry + 4 : entry + 8])
        if name in colourants:
            numbers = [round(v * 65536) & 0xFFFFFFFF for v in colourants[name]]
            profile[at + 8 : at + 20] = b"".join(v.to_bytes(4, "big") for v in numbers)
    return bytes(profile)


@pytest.mark.slow
def test_colours_of_another_profile_become_srgb_and_that_is_said(
    tmp_path: Path, pictures: Path, prepare: Prepare, upres: Command
) -> None:
    plain = np.moveaxis(pixels_of(pictures, "a.png"), 0, 2)
    folder = tmp_path / "p3"
    folder.mkdir()
    Image.fromarray(plain).save(folder / "wide.png", icc_profile=wide_gamut())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(plain).save(folder / "usual.png", icc_profile=srgb)
    Image.fromarray(plain).save(folder / "junk.png", icc_profile=b"junk" * 40)
    said = prepare(folder, tmp_path / "set", "--set", "split={}")
    (converted,) = (k for k in said.document["colours"] if k.endswith("converted to sRGB"))
    assert said.document["colours"] == {
        converted: 1,
        "profile cannot be used, taken as sRGB": 1,
    }
    assert converted in (tmp_path / "set" / "about" / "report.html").read_text()
    assert upres("status", tmp_path / "set", "--json").document["colours"][converted] == 1
    dataset = Dataset.open(tmp_path / "set")
    expected = ImageCms.profileToProfile(
        Image.fromarray(plain),
        ImageCms.ImageCmsProfile(io.BytesIO(wide_gamut())),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    pixels = {"wide.png": np.asarray(expected), "usual.png": plain, "junk.png": plain}
    assert np.abs(np.asarray(expected).astype(int) - plain).max() > 20
    for item, whole in pixels.items():
        row, top, left, _ = origins(dataset)[item][0]
        patch = np.moveaxis(dataset.read(HR, np.array([row]))[0], 0, 2)
        np.testing.assert_array_equal(patch, whole[top : top + 16, left : left + 16])
    # As the file stores them, for who means it.
    said = prepare(folder, tmp_path / "stored", "--set", "split={}", "--set", "colour=stored")
    assert said.document["colours"] == {}


@pytest.mark.slow
def test_a_dataset_of_before_goes_on_without_conversion_whatever_its_recipe_is_called(
    tmp_path: Path, pictures: Path, prepare: Prepare, digest: Digest
) -> None:
    folder = tmp_path / "p3"
    folder.mkdir()
    plain = np.moveaxis(pixels_of(pictures, "a.png"), 0, 2)
    Image.fromarray(plain).save(folder / "wide.png", icc_profile=wide_gamut())
    prepare(folder, tmp_path / "set", "--set", "split={}", "--set", "colour=stored")
    # As it was described before there was a choice.
    assert "colour" not in Dataset.open(tmp_path / "set").spec.recipe
    before = digest(tmp_path / "set")
    assert prepare(folder, tmp_path / "set", "--set", "split={}").code == 0
    assert digest(tmp_path / "set") == before
    said = prepare(folder, tmp_path / "set", "--set", "split={}", "--set", "colour=srgb")
    assert said.code == 1
    assert "colour: None there, 'srgb' now" in said.err


@pytest.mark.slow
def test_a_dataset_on_a_read_only_disk_is_read_without_a_lock(
    tmp_path: Path, pictures: Path, prepare: Prepare, upres: Command, cluster: tuple[str, str]
) -> None:
    disk = tmp_path / "disk"
    prepare(pictures, disk / "set")
    (disk / "set.lock").unlink()
    with read_only(disk):
        said = upres("export", disk / "set", tmp_path / "files", *cluster, "--json")
        assert (said.code, said.document["written"] > 0) == (0, True)
        assert upres("status", disk / "set", "--json").code == 0
        said = upres("report", disk / "set")
        assert (said.code, "name a file with --out" in said.err) == (2, True)
        said = upres("report", disk / "set", "--out", tmp_path / "page.html")
        assert said.code == 0
        page = (tmp_path / "page.html").read_bytes()
        assert page == (disk / "set" / "about" / "report.html").read_bytes()
    assert not (disk / "set.lock").exists()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing be written below a folder; the test is skipped where mounts are not allowed."""
    mount = ["mount", "--bind", str(folder), str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a read-only disk takes a mount, which is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_another_recipe_is_refused_with_what_differs(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest
) -> None:
    before = digest(prepared)
    said = prepare(pictures, prepared, "--set", "seed=8")
    assert said.code == 1
    assert "seed: 7 there, 8 now" in said.err
    assert digest(prepared) == before


def test_a_lost_ledger_is_rebuilt_and_nothing_is_computed_again(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest
) -> None:
    before = digest(prepared)
    prepared.with_name("set.ledger.sqlite").unlink()
    said = prepare(pictures, prepared)
    assert (said.code, said.document["computed_units"]) == (0, 0)
    assert digest(prepared) == before


def test_a_lost_dataset_beside_its_ledger_is_made_again(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest
) -> None:
    before = digest(prepared)
    shutil.rmtree(prepared)
    said = prepare(pictures, prepared)
    assert (said.code, said.document["computed_units"]) == (0, 2)
    assert digest(prepared) == before


@pytest.mark.slow
@pytest.mark.parametrize("array", ["hr", "lr_noise", "moments", "identity", "split"])
def test_a_damaged_shard_is_made_anew_by_check(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest, array: str
) -> None:
    before = digest(prepared)
    shard = min((prepared / array).glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 16
    shard.write_bytes(data)
    said = prepare(pictures, prepared, "--check")
    assert said.code == 0
    # What `split` says is made of what the others hold.
    assert said.document["computed_units"] == (array != "split")
    assert digest(prepared) == before


def test_licences_and_copyrights_travel_along(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    rows = [{"file": "a.png", "licence": "CC0"}, {"file": "b.png", "licence": "CC BY 4.0"}]
    (tmp_path / "licences.json").write_text(json.dumps(rows))
    said = prepare(pictures, tmp_path / "set", "--licence", tmp_path / "licences.json")
    assert "no licence for 2 of 4 pictures, such as c.png" in said.err
    dataset = Dataset.open(tmp_path / "set")
    found = {o.item: o.licence for m in dataset.manifests() for o in m.origins}
    assert found == {"a.png": "CC0", "b/b.png": "CC BY 4.0", "c.png": "", "d.png": ""}


def test_statistics_are_those_of_the_pixels(
    pictures: Path, prepared: Path, prepare: Prepare
) -> None:
    dataset = Dataset.open(prepared)
    hr = dataset.read(HR, dataset.rows("train")) / 255
    found = dataset.statistics()["train"]
    assert found["mean"] == pytest.approx(hr.mean(axis=(0, 2, 3)), abs=1e-6)
    assert found["std"] == pytest.approx(hr.std(axis=(0, 2, 3)), abs=1e-6)
    attributes = json.loads((prepared / "zarr.json").read_text())["attributes"]
    assert attributes["about"]["statistics"]["train"] == found


def test_zarr_lists_the_arrays_without_a_warning(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    import zarr

    prepare(pictures, tmp_path / "set")
    group = zarr.open_group(str(tmp_path / "set"), mode="r")
    arrays = {name: array.shape[1:] for name, array in group.arrays()}
    assert arrays["hr"] == (3, 16, 16)
    assert arrays["lr_bicubic"] == arrays["lr_noise"] == (3, 8, 8)
    first = group["hr"][0]
    np.testing.assert_array_equal(first, Dataset.open(tmp_path / "set").read(HR, np.array([0]))[0])


def test_a_dataset_that_is_held_is_not_prepared_twice_at_once(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    from pipeline.storage.locks import hold, lock_and_ledger_beside

    lock, _ = lock_and_ledger_beside(tmp_path / "set")
    with hold(lock, tmp_path / "set", "another"):
        said = prepare(pictures, tmp_path / "set")
    assert said.code == 1
    assert "held by another" in said.err


def test_a_folder_of_other_things_is_refused_and_kept(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.doc").write_text("dear")
    said = prepare(pictures, tmp_path / "set")
    assert said.code == 1
    assert "is not a dataset" in said.err
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["thesis.doc"]


def test_the_preview_prepares_nothing(pictures: Path, tmp_path: Path, prepare: Prepare) -> None:
    said = prepare(pictures, tmp_path / "set", "--preview")
    assert said.code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.preview.png"]
    sheet = read_picture((tmp_path / "set.preview.png").read_bytes(), name="sheet").pixels
    assert sheet.shape[1] > 400


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_for_a_while_loses_no_patch(
    pictures: Path, tmp_path: Path, prepare: Prepare, digest: Digest
) -> None:
    prepare(pictures, tmp_path / "whole")
    prepare(pictures, tmp_path / "set")
    # The second chunk was not made: its picture lies in the first one too.
    for array in ("hr", "lr_bicubic", "lr_noise", "moments", "identity", "split"):
        for path in (tmp_path / "set" / array).glob("c.1*"):
            path.unlink()
    data = (pictures / "d.png").read_bytes()
    (pictures / "d.png").write_bytes(data[:1000])
    said = prepare(pictures, tmp_path / "set")
    assert said.code == 3
    assert "chunk 1" in {failure["item"] for failure in said.document["failures"]}
    (pictures / "d.png").write_bytes(data)
    said = prepare(pictures, tmp_path / "set")
    assert (said.code, said.document["computed_units"]) == (0, 1)
    assert digest(tmp_path / "set") == digest(tmp_path / "whole")


@pytest.mark.slow
def test_patches_of_a_vanished_picture_outlive_a_lost_ledger_and_damage_to_others(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    before = prepare(pictures, tmp_path / "set").document["patches"]
    kept = Dataset.open(tmp_path / "set")
    hr = kept.read(HR, np.arange(len(kept)))
    (pictures / "a.png").unlink()
    (tmp_path / "set.ledger.sqlite").unlink()
    said = prepare(pictures, tmp_path / "set")
    assert (said.code, said.document["patches"]) == (0, before)
    # A flipped bit in the last patch of the first chunk, which is of another picture.
    shard = tmp_path / "set" / "hr" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[-16 * 1024 - 100] ^= 1
    shard.write_bytes(data)
    said = prepare(pictures, tmp_path / "set", "--check")
    assert (said.code, said.document["patches"]) == (0, before)
    np.testing.assert_array_equal(kept.read(HR, np.arange(len(kept))), hr)


def test_prune_takes_out_what_is_gone(pictures: Path, prepared: Path, prepare: Prepare) -> None:
    (pictures / "a.png").unlink()
    said = prepare(pictures, prepared, "--prune")
    assert said.code == 0
    assert sum(said.document["patches"].values()) == 3 * 323
    assert "a.png" not in origins(Dataset.open(prepared))


@pytest.mark.slow
def test_an_edited_manifest_is_no_proof_of_its_patches(
    pictures: Path, prepared: Path, prepare: Prepare
) -> None:
    path = prepared / "manifest" / "0.json"
    content = json.loads(path.read_text())
    content["corners"][5] = [3, 4]
    path.write_text(json.dumps(content))
    assert prepare(pictures, prepared).document["computed_units"] == 1
    dataset = Dataset.open(prepared)
    item = dataset.manifest(0).origins[0].item
    expected = pixels_of(pictures, item)[:, 3:19, 4:20]
    np.testing.assert_array_equal(dataset.read(HR, np.array([5]))[0], expected)


@pytest.mark.parametrize("array", ["hr", "lr_noise", "moments", "identity", "split"])
def test_an_array_without_its_description_is_refused_and_nothing_is_lost(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest, array: str
) -> None:
    path = prepared / array / "zarr.json"
    content = path.read_bytes()
    before = digest(prepared)
    path.unlink()
    for words in ((), ("--check",)):
        said = prepare(pictures, prepared, *words)
        assert said.code == 1
        assert f"{array}/zarr.json is missing" in said.err
    path.write_bytes(content)
    assert digest(prepared) == before


def test_pictures_of_equal_content_are_in_one_split(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    for n in range(6):
        shutil.copy(pictures / "a.png", pictures / f"copy{n}.png")
    prepare(pictures, tmp_path / "set")
    shutil.copy(pictures / "a.png", pictures / "later.png")
    prepare(pictures, tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    splits = {o.item: o.split for m in dataset.manifests() for o in m.origins}
    copies = {splits[item] for item in splits if item not in ("b/b.png", "c.png", "d.png")}
    assert len(copies) == 1


def test_a_dataset_among_its_pictures_is_refused(
    pictures: Path, tmp_path: Path, prepare: Prepare
) -> None:
    for words in ((), ("--preview",)):
        said = prepare(pictures, pictures / "set", *words)
        assert said.code == 2
        assert "is in the source" in said.err
    assert not list(pictures.glob("set*"))


@pytest.mark.slow
def test_licences_that_come_later_are_said_of_what_is_there(
    pictures: Path, prepared: Path, prepare: Prepare, digest: Digest
) -> None:
    before = shards(digest(prepared))
    said = prepare(pictures, prepared, "--licence", "CC BY 4.0")
    assert (said.code, said.document["computed_units"]) == (0, 0)
    dataset = Dataset.open(prepared)
    assert {o.licence for m in dataset.manifests() for o in m.origins} == {"CC BY 4.0"}
    assert shards(digest(prepared)) == before


def test_a_dataset_is_continued_by_its_own_recipe(
    pictures: Path,
    tmp_path: Path,
    prepared: Path,
    prepare: Prepare,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    before = digest(prepared)
    said = upres("prepare", pictures, prepared, *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, 0)
    assert digest(prepared) == before
    assert "steps = [" in (prepared / "about" / "recipe.toml").read_text()
    said = upres("prepare", pictures, tmp_path / "other", *cluster)
    assert said.code == 2
    assert "--recipe" in said.err


def test_a_picture_without_patches_behind_a_full_chunk_is_named_with_those_before_it(
    tmp_path: Path, prepare: Prepare, digest: Digest, photo: TakePhoto, save: SavePicture
) -> None:
    folder = tmp_path / "pictures"
    save(folder / "a.png", photo(264, 264))
    save(folder / "z.png", np.full((3, 16, 24), 9, np.uint8))
    words = (
        "--set",
        "least_gradient=0.001",
        "--set",
        "split.validation=0",
        "--set",
        "split.test=0",
    )
    for _ in range(2):
        said = prepare(folder, tmp_path / "set", *words)
        assert said.document["patches"]["train"] == 1024
        assert said.document["left_out"] == {"flat": 2}
    assert [p.name for p in sorted((tmp_path / "set" / "manifest").glob("[0-9]*"))] == ["0.json"]


def test_what_is_left_out_is_told_also_where_nothing_is_left(
    tmp_path: Path, prepare: Prepare, save: SavePicture
) -> None:
    save(tmp_path / "pictures" / "flat.png", np.full((3, 16, 24), 9, np.uint8))
    said = prepare(tmp_path / "pictures", tmp_path / "set", "--set", "least_variance=1")
    assert (said.code, said.document["left_out"]) == (1, {"flat": 2})
