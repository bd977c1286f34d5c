"""The model of each picture: chosen by the traces in it, or at a strength between two networks."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from distributed import LocalCluster
from PIL import Image
from skimage import data

from models import registry
from models.checkpoint import load, to_bytes
from models.spec import ModelSpec
from pipeline.compute.inference import Inference
from pipeline.geometry import Rect, Span
from pipeline.jobs.job import open_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Command, Digest

PHOTO = Image.fromarray(data.astronaut()[:256, :256]).resize((96, 80), Image.Resampling.BICUBIC)
PLAIN, RESTORING = "span-x4", "span-x4-archive"


def put(folder: Path, name: str, *, features: int, scale: int = 4) -> None:
    torch.manual_seed(features)
    spec = ModelSpec(
        name=name, architecture="span", scale=scale, channels=3, arguments={"features": features}
    )
    weights = registry.build(spec).state_dict()
    (folder / f"{name}.safetensors").write_bytes(to_bytes(spec, weights))


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    """Address of workers in this process, which find the weights where it does."""
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
    ) as found:
        yield found.scheduler_address


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    put(folder, PLAIN, features=12)
    put(folder, RESTORING, features=16)
    put(folder, "span-x2", features=12, scale=2)
    monkeypatch.setattr("models.shipped.WEIGHTS_DIR", folder)
    return folder


@pytest.fixture
def words(here: str, weights: Path) -> tuple[str, ...]:
    # A quarter of a picture each: what tiles read around themselves is most of the work.
    shared = ("--tile", "48", "--precision", "fp32", "--device", "cpu", "--backend", "torch")
    return (*shared, "--cluster", here)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clean picture, a JPEG, and a PNG that was one."""
    folder = tmp_path / "source"
    folder.mkdir()
    PHOTO.save(folder / "clean.png")
    PHOTO.save(folder / "worn.jpg", quality=60)
    Image.open(folder / "worn.jpg").save(folder / "once.png")
    PHOTO.save(folder / "fine.jpg", quality=97, subsampling=0)
    return folder


def upscaled(job_dir: Path, item: str) -> tuple[Any, dict[str, Any]]:
    image = open_job(job_dir).open_sr().image(item)
    whole = Rect(Span(0, image.size[0]), Span(0, image.size[1]))
    return image.read(whole), dict(image.provenance)


def enlarged(path: Path, model: str) -> Any:
    found = load(model)
    inference = Inference.of(found.network, scale=found.spec.scale, channels=3, precision="fp32")
    pixels = np.moveaxis(np.asarray(Image.open(path).convert("RGB")), 2, 0)
    return inference.enlarge(np.ascontiguousarray(pixels))


def models_of(upres: Command, job: Path) -> dict[str, tuple[str, str]]:
    items = upres("status", job, "--items", "--json").document["by_item"]
    return {one["item"]: (one["model"], one["because"]) for one in items}


def test_each_picture_gets_the_network_that_its_traces_ask_for(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    said = upres("upscale", source, job, "--model", "auto", *words)
    assert said.code == 0, said.err
    chosen = models_of(upres, job)
    assert chosen["clean.png"] == (PLAIN, "no traces of lossy compression")
    assert chosen["fine.jpg"] == (PLAIN, "JPEG of quality 97, 4:4:4")
    assert chosen["worn.jpg"] == (RESTORING, "JPEG of quality 60, 4:2:0")
    assert chosen["once.png"] == (RESTORING, "was once a JPEG of quality 60")
    for item, (model, because) in chosen.items():
        pixels, facts = upscaled(job, item)
        assert np.array_equal(pixels, enlarged(source / item, model)), item
        assert facts["spec"]["model"] == model
        assert facts["spec"]["weights_sha256"] == load(model).sha256
        assert facts["model_chosen_because"] == because
    text = upres("status", job, "--items").out
    assert f"{RESTORING}: JPEG of quality 60, 4:2:0" in text
    assert upres("report", job).code == 0
    assert "was once a JPEG of quality 60" in (job / "report.html").read_text()


@pytest.mark.slow
def test_what_is_done_is_not_computed_again_and_a_changed_picture_is_looked_at_again(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    asked = ("upscale", source, job, "--model", "auto", *words, "--json")
    first = upres(*asked).document["computed_units"]
    assert first > 0
    assert upres(*asked).document["computed_units"] == 0
    PHOTO.save(source / "worn.jpg", quality=98, subsampling=0)
    assert 0 < upres(*asked).document["computed_units"] < first
    assert models_of(upres, job)["worn.jpg"][0] == PLAIN
    assert upres("rerun", job, "--cluster", words[-1], "--json").document["computed_units"] == 0


def test_a_job_by_the_plain_network_goes_on_with_auto_and_only_worn_pictures_change(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path, digest: Digest
) -> None:
    job = tmp_path / "job"
    upres("upscale", source, job, "--model", PLAIN, *words)
    before = digest(job / "sr.zarr")
    assert "model_chosen_because" not in upscaled(job, "clean.png")[1]
    upres("upscale", source, job, "--model", "auto", *words)
    after = digest(job / "sr.zarr")
    changed = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert changed == {"worn.jpg", "once.png"}


def test_without_a_restoring_network_auto_takes_the_plain_one_and_says_so(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    assert upres("upscale", source, job, "--model", "auto-x2", *words).code == 0
    model, because = models_of(upres, job)["worn.jpg"]
    assert model == "span-x2"
    assert because == "JPEG of quality 60, 4:2:0, but no span-x2-archive is here"


def test_a_named_model_is_taken_for_all(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    upres("upscale", source, job, "--model", RESTORING, *words)
    for item in ("clean.png", "worn.jpg"):
        assert upscaled(job, item)[1]["spec"]["model"] == RESTORING
    assert "model" not in upres("status", job, "--items", "--json").document["by_item"][0]


@pytest.mark.slow
def test_small_pictures_share_chunks_with_those_of_the_same_model(
    upres: Command, words: tuple[str, ...], tmp_path: Path
) -> None:
    source, job = tmp_path / "source", tmp_path / "job"
    source.mkdir()
    for n in range(70):
        small = PHOTO.crop((n % 8, n // 8, n % 8 + 48, n // 8 + 40))
        if n % 2:
            small.save(source / f"{n:02}.jpg", quality=50)
        else:
            small.save(source / f"{n:02}.png")
    assert upres("upscale", source, job, "--model", "auto", *words).code == 0
    chosen = models_of(upres, job)
    assert {chosen[f"{n:02}.jpg"][0] for n in range(1, 70, 2)} == {RESTORING}
    assert {chosen[f"{n:02}.png"][0] for n in range(0, 70, 2)} == {PLAIN}
    with closing(open_job(job).open_ledger()) as ledger:
        rows = {row.item: row for row in ledger.items()}
    sr = open_job(job).open_sr()
    for item in ("01.jpg", "02.png"):
        row = rows[item]
        assert row.stack
        image = sr.image_at(item, stack=row.stack, chunk=row.chunk, place=row.place)
        whole = Rect(Span(0, image.size[0]), Span(0, image.size[1]))
        assert np.array_equal(image.read(whole), enlarged(source / item, chosen[item][0]))


def test_an_archive_of_an_earlier_upres_is_looked_at_by_its_pixels(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path, here: str
) -> None:
    import json

    archive, job = tmp_path / "a.zarr", tmp_path / "job"
    upres("ingest", source, archive, "--cluster", here)
    for file in archive.rglob("zarr.json"):
        text = json.loads(file.read_text())
        if "traces" in json.dumps(text.get("attributes", {})):
            _without_traces(text["attributes"])
            file.write_text(json.dumps(text))
    assert upres("upscale", archive, job, "--model", "auto", *words).code == 0
    chosen = models_of(upres, job)
    assert chosen["worn.jpg"] == (RESTORING, "was once a JPEG of quality 60")
    assert chosen["clean.png"][0] == PLAIN


def _without_traces(values: dict[str, Any]) -> None:
    values.pop("traces", None)
    for value in values.values():
        if isinstance(value, dict):
            _without_traces(value)


# --- strength ----------------------------------------------------------------------------------


def test_a_strength_is_recorded_like_a_model_of_its_own(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    asked = ("upscale", source, job, "--model", PLAIN, *words, "--json")
    assert upres(*asked, "--restore", "0.5").code == 0
    pixels, facts = upscaled(job, "worn.jpg")
    assert facts["spec"]["model"] == "span-x4-archive@0.5"
    assert facts["spec"]["weights_sha256"] == load("span-x4-archive@0.5").sha256
    assert np.array_equal(pixels, enlarged(source / "worn.jpg", "span-x4-archive@0.5"))
    assert upres(*asked, "--restore", "0.50").document["computed_units"] == 0
    assert upres(*asked, "--restore", "0.25").document["computed_units"] > 0


@pytest.mark.parametrize(("restore", "model"), [("0", PLAIN), ("1", RESTORING)])
def test_the_ends_of_the_strength_are_the_two_networks_bit_for_bit(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path, restore: str, model: str
) -> None:
    job = tmp_path / "job"
    upres("upscale", source, job, "--model", PLAIN, "--restore", restore, *words)
    again = upres("upscale", source, job, "--model", model, *words, "--json")
    assert again.document["computed_units"] == 0


def test_with_auto_the_strength_is_for_the_pictures_that_are_restored(
    upres: Command, words: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    assert upres("upscale", source, job, "--model", "auto", "--restore", "0.3", *words).code == 0
    chosen = models_of(upres, job)
    assert chosen["clean.png"][0] == PLAIN
    assert chosen["worn.jpg"][0] == "span-x4-archive@0.3"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--model", "bicubic-x4", "--restore", "0.5"), "bicubic-x4 has no strengths"),
        (("--model", "span-x2", "--restore", "0.5"), "span-x2 has no strengths"),
        (("--model", PLAIN, "--restore", "1.5"), "strength is 1.5, expected 0 to 1"),
        (("--model", "auto", "--restore", "nan"), "strength is nan, expected 0 to 1"),
        (("--model", "span-x4-archive@2"), "strength is 2.0, expected 0 to 1"),
    ],
)
def test_what_has_no_strength_is_refused_in_one_line_before_a_job_is_made(
    upres: Command,
    words: tuple[str, ...],
    source: Path,
    tmp_path: Path,
    asked: tuple[str, ...],
    message: str,
) -> None:
    said = upres("upscale", source, tmp_path / "job", *asked, *words)
    assert said.code in (1, 2)
    assert message in said.err
    assert said.err.strip().count("\n") == 0
    assert not (tmp_path / "job").exists()


def test_evaluating_the_choice_scores_each_picture_with_the_network_chosen_for_it(
    weights: Path, tmp_path: Path, upres: Command
) -> None:
    hr = tmp_path / "hr"
    hr.mkdir()
    for n, at in enumerate((0, 128)):
        Image.fromarray(data.astronaut()[at : at + 256, :256]).save(hr / f"{n}.png")
    how = ("--device", "cpu", "--backend", "torch", "--json")
    for degradation, taken in (("bicubic", PLAIN), ("jpeg-40", RESTORING)):
        said = upres("evaluate", "auto", hr, "--degradation", degradation, *how)
        named = upres("evaluate", taken, hr, "--degradation", degradation, *how)
        assert said.code == named.code == 0, said.err
        assert said.document["sets"] == named.document["sets"]
        assert {one["model"]: one["pictures"] for one in said.document["chosen"]} == {
            PLAIN: 2 * (taken == PLAIN),
            RESTORING: 2 * (taken == RESTORING),
        }
        assert "chosen" not in named.document
