"""`upres train`: every recipe trains from a folder of pictures, is killed, and goes on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.terminal import options
from models import checkpoint
from pipeline.compute.stop import Stop
from pipeline.recipes.files import RECIPES_DIR, recipe_names
from pipeline.storage.locks import hold

if TYPE_CHECKING:
    from tests.conftest import Command, SavePicture, TakePhoto

UPRES, TORCHRUN = (str(Path(sys.executable).with_name(name)) for name in ("upres", "torchrun"))
TRAINING = [
    name
    for name in recipe_names()
    if "architecture" in tomllib.loads((RECIPES_DIR / f"{name}.toml").read_text())
]


pytestmark = pytest.mark.usefixtures("shared_workers", "curves_drawn_once")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture) -> Path:
    folder = tmp_path_factory.mktemp("train") / "pictures"
    for n in range(4):
        save(folder / f"{n}.png", photo(230, 210, at=60 * n))
    (folder / "notes.jpg").write_text("no picture")
    return folder


def words(name: str, *, steps: int = 3) -> list[str]:
    """Return settings that make a recipe's training one of seconds, with the same parts."""
    recipe = tomllib.loads((RECIPES_DIR / f"{name}.toml").read_text())
    losses = {loss: w for loss, w in recipe["losses"].items() if loss in ("l1", "mse")}
    losses = losses or {"l1": 1.0}
    if "adversarial" in recipe["losses"]:
        losses["adversarial"] = recipe["losses"]["adversarial"]
    table = ", ".join(f"{loss} = {weight}" for loss, weight in losses.items())
    small = {
        "steps": str(steps),
        "batch": "2",
        "checkpoint_every": "2",
        "validate_every": "3",
        "validation_patches": "2",
        "losses": f"{{ {table} }}",
        "precision": "fp32",
        "prepare.split.validation": "0.25",
    }
    if recipe.get("discriminator"):
        small["discriminator_arguments"] = "{ features = 8 }"
    if recipe["prepare"]["extract"] == "random":
        small["prepare.count"] = "4"
        small["prepare.candidates"] = "1"
    if isinstance(recipe["prepare"]["patch_hr_px"], int):
        small["prepare.patch_hr_px"] = "32"
    return [word for key, value in small.items() for word in ("--set", f"{key}={value}")]


def narrow(name: str) -> list[str]:
    """Return settings that make a recipe's network narrow, unless it begins with another's weights.

    `upres models` builds each network as wide as it is.
    """
    recipe = tomllib.loads((RECIPES_DIR / f"{name}.toml").read_text())
    if "initial" in recipe:
        return []
    arguments = recipe.get("arguments", {}) | {"features": 8}
    inner = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    return ["--set", f"arguments={{ {inner} }}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_a_recipe_trains_from_pictures_stops_and_goes_on(
    name: str, pictures: Path, tmp_path: Path, upres: Command
) -> None:
    begin = ("train", pictures, "--recipe", name, "--out", tmp_path / "out", *narrow(name))
    said = upres(*begin, *words(name, steps=2), "--json")
    assert said.code == 0, said.err
    assert said.document["rejected"] == 1
    given = (*begin, *words(name))
    assert upres(*given).code == 2
    said = upres(*given, "--resume", "--json")
    assert said.code == 0, said.err
    assert said.document["rejected"] is None
    with (tmp_path / "out" / "metrics.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) == 3
    model = checkpoint.load_file(tmp_path / "out" / "best.safetensors")
    assert model.spec.name == name
    patches = tmp_path / "out" / "patches"
    said = upres("evaluate", tmp_path / "out" / "best.safetensors", patches, "--json")
    assert said.code == 0, said.err
    assert said.document["sets"][0]["images"] > 0


@pytest.mark.slow
def test_a_dataset_of_another_scale_is_refused_in_one_line(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    words = ("--recipe", "srgan-faces-128", "--set", "count=2", *cluster)
    prepared = upres("prepare", pictures, tmp_path / "set", *words)
    assert prepared.code == 3
    said = upres("train", tmp_path / "set", "--recipe", "srcnn-x4", "--out", tmp_path / "out")
    assert said.code == 2
    assert "has scale 2" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--recipe", "srcnn-x5"), "no recipe is called 'srcnn-x5'"),
        (("--recipe", "srcn-x4"), "did you mean srcnn-x4?"),
        (("--recipe", "srcnn-x4", "--set", "stepz=2"), "did you mean steps?"),
        (("--recipe", "srcnn-x4", "--set", "steps=-2"), "steps is -2, expected at least 1"),
        (("--recipe", "srcnn-x4", "--set", "prepare.cuont=2"), "did you mean count?"),
        (("--recipe", "srgan-x4"), "features of vgg16 are needed"),
        (("--recipe", "srcnn-x4", "--set", "teacher=span-x2"), "teacher span-x2 has scale 2"),
        (("--recipe", "srcnn-x4", "--set", "initial=span-x2"), "none of whose weights fits"),
        (("--recipe", "srcnn-x4", "--set", "arguments={ depth = 2 }"), "refuses arguments"),
        (
            ("--recipe", "srcnn-x4", "--set", "arguments={ features = 1 }"),
            "features is 1, expected at least 2",
        ),
        (("--recipe", "srcnn-x4", "--set", "architecture=bicubic"), "has no weights to learn"),
        (
            ("--recipe", "vdsr-x4", "--set", "arguments={ layer = 2 }"),
            "it takes features and layers",
        ),
        (
            ("--recipe", "span-x4", "--set", "initial=span-x4", "--set", "arguments={features=8}"),
            "none of whose weights fits",
        ),
        (
            ("--recipe", "dcgan-x4", "--set", "prepare.patch_hr_px=[32,64]"),
            "discriminator dcgan does not take HR patches of 32x64 px",
        ),
        (
            ("--recipe", "srcnn-x4", "--set", "prepare.patch_hr_px=10000000"),
            "does not take HR patches of 10000000x10000000 px",
        ),
        (
            ("--recipe", "srcnn-x4", "--set", "scale=2", "--set", "prepare.scale=4"),
            "scale=2 and scale=4 are both set",
        ),
    ],
)
def test_words_that_are_wrong_are_told_in_one_line_and_nothing_is_written(
    words: tuple[str, ...], told: str, pictures: Path, tmp_path: Path, upres: Command
) -> None:
    said = upres("train", pictures, "--out", tmp_path / "out", *words)
    assert said.code == 2
    assert told in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_source_without_pictures_is_refused(tmp_path: Path, upres: Command) -> None:
    (tmp_path / "a.txt").write_text("text")
    said = upres("train", tmp_path / "a.txt", "--recipe", "srcnn-x4", "--out", tmp_path / "out")
    assert said.code == 1
    assert "gives no patch to train on" in said.err


@pytest.fixture
def begun(pictures: Path, tmp_path: Path, upres: Command) -> tuple[object, ...]:
    """A training of two steps of batch 2, as the words that go on with it; it has four."""
    out = tmp_path / "out"
    begin = ("train", pictures, "--recipe", "srcnn-x4", "--out", out)
    assert upres(*begin, *words("srcnn-x4", steps=2)).code == 0
    return ("train", pictures, "--out", out, "--resume", "--set", "steps=4")


@pytest.mark.slow
def test_a_training_goes_on_as_it_was_begun_without_saying_its_recipe_again(
    begun: tuple[object, ...], tmp_path: Path, upres: Command
) -> None:
    said = upres(*begun, "--json")
    assert said.code == 0, said.err
    assert (said.document["steps"], said.document["of_steps"]) == (4, 4)
    recipe = tomllib.loads((tmp_path / "out" / "recipe.toml").read_text())
    assert (recipe["name"], recipe["batch"], recipe["steps"]) == ("srcnn-x4", 2, 4)


def test_what_its_recipe_has_otherwise_is_told_and_another_recipe_is_refused(
    begun: tuple[object, ...], upres: Command
) -> None:
    said = upres(*begun, "--recipe", "srcnn-x4")
    assert said.code == 0, said.err
    assert "goes on as it was begun: batch = 2, " in said.err
    assert "steps" not in said.err.split("as it was begun")[1].splitlines()[0]
    said = upres(*begun, "--recipe", "vdsr-x4")
    assert said.code == 2
    assert "was begun with recipe srcnn-x4, not vdsr-x4" in said.err


@pytest.mark.slow
def test_it_goes_on_with_its_patches_whatever_became_of_the_pictures(
    begun: tuple[object, ...], pictures: Path, tmp_path: Path, upres: Command
) -> None:
    command, _, *rest = begun
    gone = tmp_path / "gone"
    before = (tmp_path / "out" / "patches" / "zarr.json").read_bytes()
    said = upres(command, gone, *rest)
    assert said.code == 0, said.err
    assert (tmp_path / "out" / "patches" / "zarr.json").read_bytes() == before
    said = upres(*begun, "--recipe", "srcnn-x4", "--set", "prepare.count=5")
    assert said.code == 1
    assert "prepared" in said.err
    shutil.rmtree(tmp_path / "out" / "patches")
    said = upres(command, gone, *rest)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "name the dataset that the training was begun with" in said.err


@pytest.mark.slow
def test_what_would_change_no_weight_any_more_is_refused(
    begun: tuple[object, ...], tmp_path: Path, upres: Command
) -> None:
    recipe = tmp_path / "out" / "recipe.toml"
    before = recipe.read_text()
    for setting in ("initial=span-x4", "optimiser=muon"):
        said = upres(*begun, "--set", setting)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert "the training was begun with" in said.err
        assert recipe.read_text() == before
    lines = before.splitlines(keepends=True)
    recipe.write_text("".join(lines[:18]))
    said = upres(*begun)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "as if it was cut off" in said.err


def test_without_a_recipe_nothing_can_begin(pictures: Path, tmp_path: Path, upres: Command) -> None:
    said = upres("train", pictures, "--out", tmp_path / "out")
    assert said.code == 2
    assert "--recipe is missing; recipes are dcgan-deblur" in said.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def patches(pictures: Path, tmp_path_factory: pytest.TempPathFactory, upres: Command) -> Path:
    """Patches of a whole picture each, as srgan-faces-64 takes them."""
    dataset = tmp_path_factory.mktemp("train") / "patches"
    words = ("--recipe", "srgan-faces-64", "--set", "split={ validation = 0.25 }")
    assert upres("prepare", pictures, dataset, *words).code == 3
    return dataset


SMALL = (
    "--recipe", "srcnn-x4", "--set", "steps=2", "--set", "batch=2", "--set", "precision=fp32",
    "--set", "arguments={ features = 4 }",
)  # fmt: skip


def test_two_trainings_do_not_write_into_one_folder(
    patches: Path, tmp_path: Path, upres: Command
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with hold(out / "train.lock", out, "upres train"):
        said = upres("train", patches, "--out", out, *SMALL)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "is held by upres train (pid" in said.err
    assert upres("train", patches, "--out", out, *SMALL).code == 0


def test_it_goes_on_with_the_patches_and_steps_that_it_was_begun_with(
    patches: Path, pictures: Path, tmp_path: Path, upres: Command
) -> None:
    out, others = tmp_path / "out", tmp_path / "others"
    assert upres("train", patches, "--out", out, *SMALL).code == 0
    before = (out / "recipe.toml").read_bytes()
    words = ("--recipe", "srgan-faces-64", "--set", "split={ validation = 0.5 }")
    assert upres("prepare", pictures, others, *words).code == 3
    for dataset, steps, told in (
        (others, 3, "was trained on another dataset"),
        (patches, 1, "steps is 1, but"),
    ):
        said = upres("train", dataset, "--out", out, "--resume", "--set", f"steps={steps}")
        assert (said.code, said.err.count("\n")) == (2, 1), said.err
        assert told in said.err
    assert (out / "recipe.toml").read_bytes() == before
    (out / "recipe.toml").unlink()
    said = upres("train", patches, "--out", out, "--resume")
    assert said.code == 2
    assert "recipe.toml is missing" in said.err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--set", "prepare.count=3"), "--set prepare.count=3 is for pictures"),
        (("--set", "epochs=1"), "steps and epochs are both set"),
        (("--set", f"steps={10**21}"), "expected at most 1000000000"),
        (("--set", "arguments={ features = 0 }"), "arguments.features is 0, expected at least 1"),
        (("--set", "losses={ perceptual = 1 }"), "--features FILE"),
        (("--features", "nowhere"), "'nowhere' does not exist"),
        (("--features", "{out}"), "LPIPS cannot be computed"),
        (("--features", "{empty}"), "has no features; expected safetensors files whose names"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(
    given: tuple[str, str], told: str, patches: Path, tmp_path: Path, upres: Command
) -> None:
    (tmp_path / "alexnet.safetensors").write_bytes(b"cut off")
    option, value = given
    (tmp_path / "empty").mkdir()
    if option == "--features":
        value = value.format(out=tmp_path, empty=tmp_path / "empty")
    key = value.partition("=")[0]
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    small = [word for pair in pairs if not pair[1].startswith(f"{key}=") for word in pair]
    said = upres("train", patches, "--out", tmp_path / "out", *small, option, value)
    assert said.code in (1, 2)
    assert told in " ".join(said.err.split())
    assert not (tmp_path / "out" / "state.safetensors").exists()


@pytest.mark.parametrize("below", ["", "deep/inside"])
def test_a_dataset_is_no_place_for_a_training(below: str, patches: Path, upres: Command) -> None:
    said = upres("train", patches, "--out", patches / below, *SMALL)
    assert said.code == 2
    assert "is a dataset" in said.err


def test_places_may_be_named_from_the_folder_above(
    patches: Path, tmp_path: Path, upres: Command
) -> None:
    (tmp_path / "deep").mkdir()
    dataset = tmp_path / "deep" / ".." / "set"
    shutil.copytree(patches, tmp_path / "set")
    assert upres("train", dataset, "--out", tmp_path / "deep" / ".." / "out", *SMALL).code == 0


def test_a_folder_of_pictures_is_no_place_for_a_training_either(
    pictures: Path, upres: Command
) -> None:
    before = sorted(pictures.iterdir())
    said = upres("train", pictures, "--out", pictures, *SMALL)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "name a folder outside of it" in said.err
    assert sorted(pictures.iterdir()) == before


@pytest.mark.slow
def test_the_scale_that_is_set_is_that_of_the_patches_too(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    words = (*SMALL, "--set", "scale=3", "--set", "prepare.patch_hr_px=48")
    said = upres("train", pictures, "--out", tmp_path / "out", *words, "--set", "prepare.count=2")
    assert said.code == 0, said.err
    assert checkpoint.load_file(tmp_path / "out" / "last.safetensors").spec.scale == 3


def test_models_whose_state_is_gone_are_not_written_over(
    patches: Path, tmp_path: Path, upres: Command
) -> None:
    out = tmp_path / "out"
    assert upres("train", patches, "--out", out, *SMALL).code == 0
    (out / "state.safetensors").unlink()
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    for words in ((), ("--resume",)):
        said = upres("train", patches, "--out", out, *SMALL, *words)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert f"--set initial={out / 'last.safetensors'}" in said.err
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_what_was_ended_before_its_first_step_begins_where_it_is_to_go_on(
    pictures: Path, tmp_path: Path, upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stopped = tmp_path / "out", Stop()
    words = ("train", pictures, "--out", out, *SMALL, "--set", "prepare.count=2")
    with monkeypatch.context() as patched:
        stopped.request()
        patched.setattr(options, "interruptible", lambda: nullcontext(stopped))
        assert upres(*words).code == options.INTERRUPTED
    assert not (out / "state.safetensors").exists()
    said = upres(*words, "--resume")
    assert said.code == 0, said.err
    assert f"{out} has made no step yet: it begins" in said.err
    said = upres("train", pictures, "--out", tmp_path / "other", *SMALL, "--resume")
    assert said.code == 2
    assert "cannot be resumed" in said.err


def test_features_that_are_missing_are_told_before_pictures_are_prepared(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    (tmp_path / "vgg16.safetensors").write_bytes(b"")
    words = ("--recipe", "srgan-faces-96", "--features", tmp_path)
    said = upres("train", pictures, "--out", tmp_path / "out", *words)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert f"cannot be computed: no file of {tmp_path} is called vgg19...: " in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("lr_versions = ['foggy']", "lr_versions has 'foggy', but the recipe prepares bicubic"),
        ("[prepare]\nextract = 'random'\npatch_hr_px = 97", "patch_hr_px is 97x97"),
    ],
)
def test_a_recipe_that_cannot_be_is_told_before_pictures_are_prepared(
    recipe: str, message: str, pictures: Path, tmp_path: Path, upres: Command
) -> None:
    words = ["name = 'mine'", "architecture = 'span'", "scale = 2", recipe]
    if "prepare" not in recipe:
        words += ["[prepare]", "extract = 'random'", "patch_hr_px = 96"]
    (tmp_path / "mine.toml").write_text("\n".join(words))
    out = tmp_path / "out"
    said = upres("train", pictures, "--out", out, "--recipe", tmp_path / "mine.toml")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert message in said.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted; repeat the command, with --resume if a step was"),
        (OSError(28, "No space left on device", "out/metrics.csv"), 1, "'out/metrics.csv'; fix"),
    ],
)
def test_what_ends_a_training_says_how_to_go_on(
    fault: BaseException, code: int, told: str, patches: Path, tmp_path: Path, upres: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def ends(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("pipeline.training.run.train", ends)
    said = upres("train", patches, "--out", tmp_path / "out", *SMALL)
    assert (said.code, said.err.count("\n")) == (code, 1)
    assert told in said.err
    assert "--resume" in said.err


def test_a_folder_whose_name_cannot_be_written_down_is_refused(
    patches: Path, tmp_path: Path, upres: Command
) -> None:
    said = upres("train", patches, "--out", f"{tmp_path}/\udcff", *SMALL)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "is not UTF-8; name another folder" in said.err


@pytest.mark.slow
def test_of_several_processes_one_tells_the_result(patches: Path, tmp_path: Path) -> None:
    small = [word.replace("batch=2", "batch=1") for word in SMALL]
    words = ["train", str(patches), "--out", str(tmp_path / "out"), *small]
    started = subprocess.run(
        [TORCHRUN, "--nproc-per-node", "2", "--no-python", UPRES, *words, "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["steps"] == 2
    assert "broadcast_buffers" not in started.stderr


def test_a_training_that_was_stopped_at_once_says_that_there_is_no_model_yet(
    patches: Path, tmp_path: Path, upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Stop()
    stopped.request()
    monkeypatch.setattr(options, "interruptible", lambda: nullcontext(stopped))
    said = upres("train", patches, "--out", tmp_path / "out", *SMALL)
    assert said.code == options.INTERRUPTED
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert lines["model"] == "none yet, as nothing was validated"
    assert lines["steps"].startswith("0 of ")
    assert "train" in lines["patches"]
    assert "{" not in said.out


def test_pictures_that_are_too_small_are_told_with_the_reason(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command
) -> None:
    save(tmp_path / "small" / "a.png", photo(50, 60))
    said = upres("train", tmp_path / "small", "--out", tmp_path / "out", *SMALL)
    assert said.code == 1
    assert "gives no patch to train on; 1 pictures were rejected (" in said.err
    assert "96" in said.err.splitlines()[-1]
