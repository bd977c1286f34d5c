"""Training: what it leaves, and that a killed one ends as an undisturbed one does."""

from __future__ import annotations

import csv
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models import checkpoint
from models.interpolation import enlarge
from models.lpips import alexnet
from pipeline.compute.cluster import Stop
from pipeline.compute.inference import from_unit_range
from pipeline.dataset.prepare import dataset_spec
from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.chain import Degradation
from pipeline.errors import ModelError, RecipeError, SourceError, TrainingError, UsageError
from pipeline.pictures.files import read_picture
from pipeline.pictures.metrics import score_picture
from pipeline.recipes.preparing import PrepareRecipe
from pipeline.recipes.training import TrainRecipe, load_recipe
from pipeline.storage.dataset import Dataset
from pipeline.storage.manifest import Manifest, Origin
from pipeline.training.loop import train
from pipeline.training.objective import FeatureFiles, Objective
from pipeline.training.processes import Processes
from pipeline.training.session import TrainSettings
from pipeline.training.state import stored_step
from pipeline.training.validation import Validator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.training.review import TrainProgress
    from tests.conftest import TakePhoto

PLAIN = TrainRecipe(
    name="small",
    architecture="span",
    scale=2,
    arguments={"features": 4},
    batch=4,
    steps=6,
    optimiser="muon",
    learning_rate=1e-3,
    schedule="linear",
    warmup_share=1 / 3,
    validate_every=3,
    checkpoint_every=2,
    validation_patches=4,
    precision="fp32",
)
GAN = replace(
    PLAIN,
    discriminator="unet",
    discriminator_arguments={"features": 4},
    losses={"l1": 1.0, "adversarial": 0.1},
    pretrain_share=1 / 3,
    optimiser="adam",
    schedule="plateau",
    patience=0,
)


# All that they have in common with the others is the loop: BatchNorm sees whole batches.
NORMED = replace(
    GAN,
    architecture="srresnet",
    arguments={"features": 4, "blocks": 2},
    discriminator="srgan",
)


def make(
    path: Path,
    photo: TakePhoto,
    *,
    train: int = 24,
    validation: int = 6,
    side: int = 32,
    versions: tuple[str, ...] = ("bicubic",),
) -> Dataset:
    """Return a dataset of square patches cut from a photograph."""
    recipe = PrepareRecipe(
        name="d",
        scale=2,
        extract="random",
        patch_hr_px=side,
        duplicate_bits=-1,
        degradations=[{"name": name} for name in versions],
    )
    dataset = Dataset.open_or_create(path, dataset_spec(recipe))
    many = train + validation
    corners = np.random.default_rng(0).integers(0, min(200, 240 - side), (many, 2))
    picture = photo(240, 240)
    hr = np.stack([picture[:, t : t + side, x : x + side] for t, x in corners])
    seeds = np.arange(many)
    origins = [Origin(item=f"{n}.png", sha256="00", split=n) for n in ("train", "validation")]
    pictures = (seeds >= train).astype(np.int64)
    none = np.array([], dtype=np.uint64)
    dataset.put_manifest(0, Manifest(tuple(origins), seeds, pictures, corners, seeds, none))
    dataset.grow(many)
    arrays = {"hr": hr}
    for name in versions:
        degradation = Degradation.from_table({"name": name}, scale=2)
        arrays[f"lr_{name}"] = degrade_patches(hr, seeds.tolist(), degradation, scale=2)
    dataset.write(0, arrays)
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto) -> Dataset:
    return make(tmp_path_factory.mktemp("patches") / "d", photo)


def run(
    dataset: Dataset,
    recipe: TrainRecipe,
    out: Path,
    *,
    resume: bool = False,
    tick: Callable[[int, int], None] = lambda _step, _of: None,
    heard: list[TrainProgress] | None = None,
    stop: Stop | None = None,
    files: FeatureFiles | None = None,
) -> Path:
    train(
        dataset,
        recipe,
        TrainSettings(out_dir=out, resume=resume, memory="ram", data="24 patches"),
        files=files or FeatureFiles(),
        processes=Processes(torch.device("cpu")),
        tick=tick,
        report=(heard if heard is not None else []).append,
        stop=stop,
    )
    return out / "best.safetensors"


def held_out(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return LR and HR, in 0..1, of the four patches that are validated."""
    rows = dataset.rows("validation")
    rows = rows[np.linspace(0, len(rows) - 1, 4).round().astype(int)]
    lr, hr = (torch.from_numpy(dataset.read(n, rows)).float() / 255 for n in ("lr_bicubic", "hr"))
    return lr, hr


def interrupted(after: int) -> Callable[[int, int], None]:
    def tick(step: int, _of: int) -> None:
        if step == after:
            raise KeyboardInterrupt

    return tick


@pytest.mark.parametrize(
    ("recipe", "killed_after"),
    [
        pytest.param(PLAIN, 3, id="plain-3"),
        pytest.param(GAN, 3, id="gan-3", marks=pytest.mark.slow),
        *(
            pytest.param(recipe, after, id=f"{name}-{after}", marks=pytest.mark.slow)
            for name, recipe in (("plain", PLAIN), ("gan", GAN))
            for after in (1, 2, 5)
        ),
    ],
)
def test_a_training_that_was_killed_and_resumed_ends_with_the_same_bytes(
    killed_after: int, recipe: TrainRecipe, dataset: Dataset, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(dataset, recipe, whole)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, recipe, parts, tick=interrupted(killed_after))
    run(dataset, recipe, parts, resume=(parts / "state.safetensors").exists())
    for name in ("last.safetensors", "best.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    one, two = (load_file(folder / "state.safetensors") for folder in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one if name != "numbers")
    assert told(parts) == told(whole)


def told(out: Path) -> list[dict[str, str]]:
    """Return the figures of a training, without those that a clock made."""
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting_s")} for row in rows]


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_keeps_the_step_it_ends_after(
    dataset: Dataset, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(dataset, PLAIN, whole)
    stop, made = Stop(), []

    def ask(step: int, _of: int) -> None:
        made.append(step)
        if step == 3:
            stop.request()

    run(dataset, PLAIN, parts, tick=ask, stop=stop)
    assert made == [1, 2, 3]
    run(dataset, PLAIN, parts, tick=lambda step, _of: made.append(step), resume=True)
    assert made == [1, 2, 3, 3, 4, 5, 6]
    assert (parts / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def test_what_resuming_needs_is_written_after_the_first_step_and_every_minute(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock is moved on by 25 s a step: of 9 steps, three end a minute."""
    now = 0.0
    monkeypatch.setattr("pipeline.training.checkpoints.time.monotonic", lambda: now)
    written: list[int] = []

    def tick(step: int, _of: int) -> None:
        nonlocal now
        now += 25.0
        state = tmp_path / "state.safetensors"
        if state.exists():
            written.append(int(load_file(state)["numbers"][0]))

    run(dataset, replace(PLAIN, steps=9, validate_every=9, checkpoint_every=9), tmp_path, tick=tick)
    # Heard before what is due after the step itself.
    assert written == [1, 1, 1, 4, 4, 4, 7, 7]


@pytest.mark.slow
def test_epochs_are_steps_of_the_patches_that_there_are(dataset: Dataset, tmp_path: Path) -> None:
    """24 patches to train on: two passes in batches of 5 are 9.6 steps."""
    made: list[int] = []
    recipe = replace(PLAIN, epochs=2, batch=5)
    run(dataset, recipe, tmp_path, tick=lambda step, of: made.append(of))
    assert made == [10] * 10
    begun = load_recipe(str(tmp_path / "recipe.toml"))
    assert (begun.epochs, begun.steps) == (0, 10)
    assert recipe.of_patches(24, processes=2).steps == 5


@pytest.mark.slow
def test_a_batch_is_no_larger_than_all_patches_and_that_is_told_and_kept(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = run(dataset, replace(PLAIN, batch=64), tmp_path / "64")
    assert "batch is 24 instead of 64: there are 24 patches to train on" in caplog.messages
    assert load_recipe(str(tmp_path / "64" / "recipe.toml")).batch == 24
    two = run(dataset, replace(PLAIN, batch=24), tmp_path / "24")
    assert one.read_bytes() == two.read_bytes()
    assert replace(PLAIN, batch=64).of_patches(24, processes=5).batch == 4
    assert replace(PLAIN, batch=4).of_patches(24, processes=6) == replace(PLAIN, batch=4)


@pytest.mark.slow
def test_a_training_measures_to_its_end_what_it_measured_as_it_was_begun(
    tmp_path: Path, photo: TakePhoto, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make(tmp_path / "d", photo, side=64)
    torch.manual_seed(0)
    save_file(alexnet().state_dict(), tmp_path / "alexnet.safetensors")
    files = FeatureFiles.named([tmp_path / "alexnet.safetensors"])
    short = replace(PLAIN, steps=2, validate_every=2)
    run(dataset, short, tmp_path / "with", files=files)
    with pytest.raises(UsageError, match="was begun with LPIPS"):
        run(dataset, PLAIN, tmp_path / "with", resume=True)
    run(dataset, PLAIN, tmp_path / "with", resume=True, files=files)
    assert not caplog.messages
    run(dataset, short, tmp_path / "without")
    run(dataset, PLAIN, tmp_path / "without", resume=True, files=files)
    assert "LPIPS is left out, as the training was begun without it" in caplog.messages
    for folder, measured in (("with", True), ("without", False)):
        with (tmp_path / folder / "metrics.csv").open() as file:
            assert {bool(row["lpips"]) for row in csv.DictReader(file)} == {measured}


def test_lr_versions_take_turns_in_validation(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = make(tmp_path / "d", photo, versions=("bicubic", "noise", "box"))
    rows = dataset.rows("validation")
    for chosen, versions in (([], ("bicubic", "noise", "box")), (["box"], ("box",))):
        recipe = replace(PLAIN, validation_patches=6, lr_versions=chosen)
        validator = Validator.of(dataset, recipe, FeatureFiles(), device=torch.device("cpu"))
        assert validator is not None
        for n, row in enumerate(rows):
            wanted = dataset.read(f"lr_{versions[n % len(versions)]}", np.array([row]))
            assert np.array_equal(validator.lr[n], wanted[0])


def test_without_a_patch_held_out_it_is_told_that_nothing_is_validated(
    tmp_path: Path, photo: TakePhoto, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make(tmp_path / "d", photo, validation=0)
    run(dataset, replace(PLAIN, validation_patches=0), tmp_path / "unasked")
    assert not caplog.messages
    run(dataset, PLAIN, tmp_path / "out")
    (told,) = caplog.messages
    assert told.startswith("nothing is validated")
    assert "split = { validation = 0.1 }" in told


@pytest.mark.slow
def test_another_seed_gives_other_weights(dataset: Dataset, tmp_path: Path) -> None:
    one = run(dataset, PLAIN, tmp_path / "1")
    two = run(dataset, replace(PLAIN, seed=2), tmp_path / "2")
    assert one.read_bytes() != two.read_bytes()


def test_it_leaves_models_a_recipe_figures_curves_and_pictures(
    dataset: Dataset, tmp_path: Path
) -> None:
    heard: list[TrainProgress] = []
    best = run(dataset, GAN, tmp_path, heard=heard)
    model = checkpoint.load_file(best)
    assert (model.spec.scale, model.spec.arguments) == (2, {"features": 4})
    assert "24 patches" in model.spec.training_data
    assert load_recipe(str(tmp_path / "recipe.toml")) == GAN
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [p.step for p in heard] == [2, 3, 6]
    assert [row["stage"] for row in rows] == ["alone", "gan", "gan"]
    assert rows[0]["discriminator"] == ""
    assert 0 <= float(rows[2]["accuracy"]) <= 1
    assert all(np.isfinite(float(row["psnr_y"])) for row in rows)
    assert rows[0]["validation_discriminator"] == ""
    assert all(float(row["validation_discriminator"]) > 0 for row in rows[1:])
    # Alone, the loss is the mean absolute error, also of what is held out.
    assert 0 < float(rows[0]["validation_loss"]) < 0.5
    assert len({row["bicubic_psnr_y"] for row in rows}) == 1
    for name in ("curves.png", "samples/00000006.png"):
        pixels = read_picture((tmp_path / name).read_bytes(), name=name).pixels
        assert min(pixels.shape[1:]) > 200
    assert list((tmp_path / "events").iterdir())
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["00000002.safetensors", "00000004.safetensors", "00000006.safetensors"]


def test_only_the_last_checkpoints_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, replace(PLAIN, keep=1), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000006.safetensors"]


@pytest.mark.slow
def test_checkpoints_of_an_earlier_training_push_out_none_of_this_one(
    dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (900, 901, 902):
        (tmp_path / "checkpoints" / f"{step:08}.safetensors").write_bytes(b"of before")
    run(dataset, replace(PLAIN, keep=1), tmp_path)
    kept = sorted(int(path.stem) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [6, 900, 901, 902]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("3,alone,", ",al,", 1),
        lambda text: text.replace("3,alone,", "3,alone,x", 1),
        lambda text: text.replace("3,alone,", "3,alone,nan,", 1),
        lambda text: "step,stage,lo\n" + text.split("\n", 1)[1],
        lambda text: "\udcff\udcfe" * 9 + text,
        lambda _: "",
    ],
)
def test_figures_that_are_damaged_end_no_training(
    damage: Callable[[str], str],
    dataset: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, PLAIN, tmp_path, tick=interrupted(5))
    metrics = tmp_path / "metrics.csv"
    content = damage(metrics.read_text())
    metrics.write_bytes(content.encode(errors="surrogateescape"))
    run(dataset, PLAIN, tmp_path, resume=True)
    assert [row["step"] for row in told(tmp_path)] == ["6"]
    assert ("metrics.csv is damaged" in caplog.text) == bool(content)


def forgets(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("exp_avg_sq")]:
        del tensors[name]


def forgets_all(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("generator.optimiser.0.0.")]:
        del tensors[name]


def forgets_everything(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("generator.optimiser.")]:
        del tensors[name]


def misremembers(tensors: dict[str, Tensor]) -> None:
    tensors["generator.optimiser.0.0.exp_avg"] = torch.zeros(1)


def counts_halves(tensors: dict[str, Tensor]) -> None:
    tensors["numbers"][0] = 1.5


def counts_nothing(tensors: dict[str, Tensor]) -> None:
    tensors["numbers"] = torch.tensor(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [forgets, forgets_all, forgets_everything, misremembers, counts_halves, counts_nothing],
)
def test_a_state_that_is_not_that_of_its_networks_is_refused(
    damage: Callable[[dict[str, Tensor]], None], dataset: Dataset, tmp_path: Path
) -> None:
    recipe = replace(PLAIN, optimiser="adam")
    run(dataset, replace(recipe, steps=2), tmp_path)
    path = tmp_path / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(dataset, recipe, tmp_path, resume=True)


def test_patches_that_leave_nothing_to_score_are_refused(photo: TakePhoto, tmp_path: Path) -> None:
    small = make(tmp_path / "d", photo, side=4)
    with pytest.raises(RecipeError, match="are 4x4 px, of which a border of 2 is not scored"):
        run(small, PLAIN, tmp_path / "out")
    run(small, replace(PLAIN, validation_patches=0, steps=1), tmp_path / "out")


def test_a_rate_that_falls_by_validation_needs_some(dataset: Dataset, tmp_path: Path) -> None:
    blind = replace(PLAIN, schedule="plateau", validation_patches=0)
    with pytest.raises(RecipeError, match="nothing is validated"):
        run(dataset, blind, tmp_path)


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_training_learns(optimiser: str, dataset: Dataset, tmp_path: Path) -> None:
    heard: list[TrainProgress] = []
    longer = replace(PLAIN, optimiser=optimiser, steps=60, validate_every=20, checkpoint_every=60)
    run(dataset, longer, tmp_path, heard=heard)
    assert heard[-1].loss < heard[0].loss


def test_accumulated_batches_move_as_one_of_their_size(dataset: Dataset, tmp_path: Path) -> None:
    plain = replace(PLAIN, optimiser="adam", steps=2)
    run(dataset, replace(plain, batch=8), tmp_path / "one")
    run(dataset, replace(plain, batch=4, accumulate=2), tmp_path / "two")
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


def test_fresh_degradations_need_no_lr_version(dataset: Dataset, tmp_path: Path) -> None:
    recipe = replace(PLAIN, fresh_degradations=[{"name": "noise"}, {"name": "blur"}])
    assert run(dataset, recipe, tmp_path).exists()


@pytest.mark.slow
def test_a_training_begins_with_the_weights_of_another(dataset: Dataset, tmp_path: Path) -> None:
    first = run(dataset, PLAIN, tmp_path / "first")
    heard: list[TrainProgress] = []
    still = replace(PLAIN, initial=str(first), steps=1, learning_rate=1e-12, validate_every=1)
    second = run(dataset, still, tmp_path / "second", heard=heard)
    moved = first.rename(tmp_path / "moved.safetensors")
    run(dataset, replace(still, steps=2), tmp_path / "second", resume=True)
    first = moved.rename(first)
    one, two = load_file(first), load_file(second)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
    other = replace(PLAIN, architecture="srcnn", arguments={}, initial=str(first))
    with pytest.raises(RecipeError, match="none of whose weights fits"):
        run(dataset, other, tmp_path / "third")


@pytest.mark.slow
def test_the_arithmetic_that_the_device_is_fast_in_is_chosen_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes on elsewhere computes as it was begun."""
    wanted = replace(PLAIN, precision="auto")
    for found in ("bf16", "fp32"):
        monkeypatch.setattr(
            "pipeline.training.loop.resolve_precision", lambda _, *, device, found=found: found
        )
        run(dataset, wanted, tmp_path / found)
        begun = load_recipe(str(tmp_path / found / "recipe.toml"))
        assert begun == replace(wanted, precision=found)
    one, two = (load_file(tmp_path / n / "last.safetensors") for n in ("bf16", "fp32"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_student_nears_its_teacher_and_is_validated_by_the_originals(
    dataset: Dataset, tmp_path: Path
) -> None:
    """What bicubic makes is learned, which is not what the patches hold."""
    heard: list[TrainProgress] = []
    longer = replace(PLAIN, steps=40, validate_every=20, checkpoint_every=40)
    run(dataset, replace(longer, teacher="bicubic-x2"), tmp_path / "taught", heard=heard)
    taught = {p.step: p.loss for p in heard}
    heard.clear()
    run(dataset, longer, tmp_path / "plain", heard=heard)
    assert taught[40] < taught[20]
    assert taught[40] != heard[-1].loss
    with (tmp_path / "taught" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    network = checkpoint.load(str(tmp_path / "taught" / "last.safetensors")).network
    lr, hr = held_out(dataset)
    with torch.no_grad():
        sr = network(lr)
    # The loss is the one that is learned by; what the patches hold is what scores are of.
    apart = (sr - enlarge(lr, scale=2, method="bicubic")).abs().mean()
    assert float(last["validation_loss"]) == pytest.approx(float(apart), rel=1e-3)
    border = [np.asarray(from_unit_range(x, np.dtype(np.uint8))) for x in (sr, hr)]
    scores = [
        score_picture(a, b, border_px=2, data_range=255).psnr_y
        for a, b in zip(*border, strict=True)
    ]
    assert float(last["psnr_y"]) == pytest.approx(np.mean(scores), abs=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": "bicubic-x4"}, "teacher bicubic-x4 has scale 4"),
        ({"teacher": "bicubix-x2"}, "did you mean bicubic-x2"),
    ],
)
def test_a_teacher_that_cannot_be_is_told_before_anything_is_written(
    change: dict[str, str], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises((RecipeError, ModelError), match=words):
        run(dataset, replace(PLAIN, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_teacher_is_no_original_for_a_discriminator() -> None:
    with pytest.raises(RecipeError, match="expected l1 or mse alone"):
        replace(GAN, teacher="bicubic-x2")


def test_a_folder_that_holds_a_training_is_not_overwritten_without_asking(
    dataset: Dataset, tmp_path: Path
) -> None:
    run(dataset, PLAIN, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        run(dataset, replace(PLAIN, seed=9), tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resuming_what_is_not_there_or_of_another_recipe_is_an_error(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(dataset, PLAIN, tmp_path, resume=True)
    run(dataset, PLAIN, tmp_path)
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(dataset, replace(PLAIN, arguments={"features": 5}), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "spam"}, "spam"),
        ({"scale": 4}, "has scale 2"),
        ({"channels": 1}, "3 channels"),
        ({"lr_versions": ["bicubix"]}, "bicubix"),
        ({"arguments": {"feature": 4}}, "feature"),
    ],
)
def test_what_does_not_fit_is_told(
    change: dict[str, object], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words):
        run(dataset, replace(PLAIN, **change), tmp_path)  # type: ignore[arg-type]


def test_an_unknown_discriminator_is_told(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected one of"):
        run(dataset, replace(GAN, discriminator="judge"), tmp_path)


def test_a_loss_without_its_features_says_how_to_get_them(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"content.*vgg19.*--features"):
        run(dataset, replace(PLAIN, losses={"content": 1.0}), tmp_path)


def test_a_dataset_without_patches_is_an_error(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = make(tmp_path / "d", photo, train=0)
    with pytest.raises(SourceError, match="no patch to train on"):
        run(dataset, PLAIN, tmp_path / "out")


def test_without_validation_the_last_is_the_best(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = make(tmp_path / "d", photo, validation=0)
    best = run(dataset, PLAIN, tmp_path / "out")
    assert best.read_bytes() == (tmp_path / "out" / "last.safetensors").read_bytes()


def test_a_loss_that_stays_nan_ends_the_training(dataset: Dataset, tmp_path: Path) -> None:
    broken = replace(PLAIN, learning_rate=1e6, steps=40, validate_every=40, warmup_share=0.0)
    with pytest.raises(TrainingError, match=r"training diverged: .* --set learning_rate=0\.001"):
        run(dataset, broken, tmp_path)


FILES = ("state.safetensors", "last.safetensors", "best.safetensors", "recipe.toml")


def good_files(out: Path) -> dict[str, bytes]:
    kept = [out / name for name in FILES] + sorted((out / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in kept}


def stored(out: Path) -> int:
    return stored_step(out / "state.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "rate"),
    [(PLAIN, 1e6), (PLAIN, 1.0), (GAN, 1e6), (NORMED, 1e6)],
    ids=["plain", "plain-slower", "gan", "normed"],
)
def test_a_blown_training_leaves_what_was_good_and_says_how_to_go_on(
    recipe: TrainRecipe, rate: float, dataset: Dataset, tmp_path: Path
) -> None:
    good = replace(recipe, checkpoint_every=1, schedule="constant", warmup_share=0.0)
    run(dataset, good, tmp_path)
    before = good_files(tmp_path)
    blown = replace(good, steps=40, learning_rate=rate, discriminator_rate=1e-3)
    if recipe.discriminator:
        blown = replace(blown, pretrain_share=0.0)
    with pytest.raises(TrainingError) as caught:
        run(dataset, blown, tmp_path, resume=True)
    message = str(caught.value)
    assert "\n" not in message
    assert "training diverged" in message
    assert f"of step 6 and before: go on with `upres train {dataset.path} --out" in message
    assert "--resume`" in message
    assert good_files(tmp_path) == before
    # And from there it goes on, as if nothing had been.
    run(dataset, replace(good, steps=8), tmp_path, resume=True)
    whole = tmp_path / "whole"
    run(dataset, good, whole)
    run(dataset, replace(good, steps=8), whole, resume=True)
    assert good_files(tmp_path)["last.safetensors"] == good_files(whole)["last.safetensors"]


@pytest.mark.slow
def test_a_rate_that_a_schedule_blows_up_leaves_the_steps_before_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    blown = replace(
        GAN, schedule="constant", learning_rate=1e6, pretrain_rate=1e-3, pretrain_share=0.5,
        discriminator_rate=1e-4, steps=40, checkpoint_every=1, validate_every=5, keep=3,
        warmup_share=0.0,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="of step 20 and before") as caught:
        run(dataset, blown, tmp_path)
    assert "--set learning_rate=0.001 (now 1e+06)" in str(caught.value)
    assert stored(tmp_path) == 20
    names = [path.stem for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names == ["00000018", "00000019", "00000020"]
    weights = load_file(tmp_path / "last.safetensors")
    assert all(float(w.abs().max()) < 10 for w in weights.values())


def test_a_training_that_blows_up_at_once_leaves_nothing_to_go_on_from(
    dataset: Dataset, tmp_path: Path
) -> None:
    broken = replace(PLAIN, learning_rate=1e6, steps=40, warmup_share=0.0, checkpoint_every=1)
    with pytest.raises(TrainingError, match="nothing of it is kept, begin again with --set lear"):
        run(dataset, broken, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    run(dataset, PLAIN, tmp_path)


def test_one_step_that_is_far_off_is_skipped_and_evicts_no_checkpoint(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Objective.of_generator

    def once_far(self: Objective, sr: Tensor, hr: Tensor, **how: Any) -> dict[str, Tensor]:
        found = right(self, sr, hr, **how)
        return {k: v * 1e5 if how["step"] == 3 else v for k, v in found.items()}

    monkeypatch.setattr("pipeline.training.objective.Objective.of_generator", once_far)
    run(dataset, replace(PLAIN, checkpoint_every=1, keep=2, steps=5), tmp_path)
    names = [path.stem for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names == ["00000003", "00000005"]


def test_a_gradient_that_is_not_finite_moves_nothing_though_the_loss_is(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.optimisers.Learner.gradient_norm", lambda _: math.inf)
    with pytest.raises(TrainingError, match="for 6 steps up to 6"):
        run(dataset, PLAIN, tmp_path)
    assert not (tmp_path / "state.safetensors").exists()


@pytest.mark.slow
def test_a_state_of_before_there_were_guards_goes_on_to_the_same_bytes(
    dataset: Dataset, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        run(dataset, PLAIN, parts, tick=interrupted(3))
    file = parts / "state.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        about = opened.metadata()
    del tensors["guard"]
    save_file(tensors, file, about)
    last = run(dataset, PLAIN, parts, resume=True).read_bytes()
    assert last == run(dataset, PLAIN, whole).read_bytes()


def test_the_validation_loss_is_that_of_a_step_on_those_patches(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Of the output as it is: not rounded, and not clipped to what a picture can hold."""
    run(dataset, replace(PLAIN, losses={"l1": 1.0, "mse": 0.5}), tmp_path)
    network = checkpoint.load(str(tmp_path / "last.safetensors")).network
    lr, hr = held_out(dataset)
    with torch.no_grad():
        apart = network(lr) - hr
    expected = float(apart.abs().mean() + 0.5 * apart.square().mean())
    with (tmp_path / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["validation_loss"]) == pytest.approx(expected, rel=1e-4)


def test_a_dataset_whose_only_patch_validates_says_so(tmp_path: Path, photo: TakePhoto) -> None:
    only = make(tmp_path / "d", photo, train=0, validation=1)
    with pytest.raises(SourceError, match="no patch to train on: all 1 are held out for validatio"):
        run(only, PLAIN, tmp_path / "out")


def test_a_training_that_learned_in_no_step_has_failed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> dict[str, Tensor]:
        return {"l1": torch.tensor(float("nan"), requires_grad=True)}

    monkeypatch.setattr("pipeline.training.objective.Objective.of_generator", nothing)
    with pytest.raises(TrainingError, match="for 6 steps up to 6"):
        run(dataset, PLAIN, tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from pipeline.storage.dataset import Dataset
from pipeline.training.loop import train
from pipeline.training.session import TrainSettings
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import joined
from pipeline.recipes.training import load_recipe

dataset, recipe, out = sys.argv[1:]
with joined("cpu") as processes:
    train(
        Dataset.open(Path(dataset)), load_recipe(recipe),
        TrainSettings(out_dir=Path(out), memory="ram"),
        files=FeatureFiles(), processes=processes,
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [PLAIN, GAN, NORMED], ids=["plain", "gan", "normed"])
def test_two_processes_train_as_one_with_the_doubled_batch(
    recipe: TrainRecipe, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "recipe.toml").write_text(replace(recipe, optimiser="adam").to_toml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(tmp_path / "script.py"), str(dataset.path), str(tmp_path / "recipe.toml")]
    root = Path(__file__).parents[3]
    shared = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen([sys.executable, *words, str(tmp_path / "two")], env=env)
        for env in ({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    run(dataset, replace(recipe, optimiser="adam", batch=8), tmp_path / "one")
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=1e-2)
    found = [told(tmp_path / name)[-1] for name in ("one", "two")]
    for column, within in (("loss", 0.003), ("discriminator", 0.003), ("accuracy", 0.2)):
        a, b = (float(row[column] or "nan") for row in found)
        assert b == pytest.approx(a, rel=within, nan_ok=True), column
