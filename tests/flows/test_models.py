"""What `upres models` tells: every system once, and of those without weights how to train them."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flows import models
from flows.cli import main
from models import registry
from models.checkpoint import load, to_bytes
from models.reach import reach_px
from models.spec import ModelSpec
from pipeline.compute.inference import load_model
from pipeline.recipes.files import recipe_names
from pipeline.recipes.training import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command

FACES = {
    "srgan-faces-64", "srgan-faces-96", "srgan-faces-128", "dcgan-x4", "dcgan-denoise",
    "dcgan-deblur", "swish-gray-x2",
}  # fmt: skip
"""Recipes whose weights the terms of their research pictures keep from being shipped."""

PREPARING = {"photographs-x4", "swish-x4-halves"}
"""Recipes that train nothing."""


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, Any]]:
    found, _ = models.table()
    assert len({values["name"] for values in found}) == len(found)
    return {values["name"]: values for values in found}


@pytest.fixture
def unshipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights are shipped from, and none are."""
    monkeypatch.setattr(registry, "WEIGHTS_DIR", tmp_path)
    return tmp_path


def test_every_system_is_listed_once_and_says_where_its_weights_are(
    listed: dict[str, dict[str, Any]],
) -> None:
    where = {name: values["weights"] for name, values in listed.items()}
    shipped = dict.fromkeys(registry.shipped(), "shipped")
    trained = dict.fromkeys(set(recipe_names()) - {*PREPARING, *shipped}, "recipe")
    assert where == shipped | trained | dict.fromkeys(registry.baselines(), "none needed")


def test_every_entry_has_the_same_keys_whatever_it_is(listed: dict[str, dict[str, Any]]) -> None:
    assert len({tuple(values) for values in listed.values()}) == 1
    for name, values in listed.items():
        recipe = values["weights"] == "recipe"
        assert bool(values["sha256"]) != recipe, name
        assert bool(values["train"]) == recipe, name
        assert all(values[key] for key in ("licence", "training_data", "summary")), name
    json.dumps(list(listed.values()), allow_nan=False)


@pytest.mark.usefixtures("unshipped")
def test_a_recipe_tells_the_network_that_it_trains() -> None:
    listed = {values["name"]: values for values in models.table()[0]}
    for name, values in listed.items():
        if values["weights"] == "recipe":
            recipe = load_recipe(name)
            assert (values["architecture"], values["scale"], values["channels"]) == (
                recipe.architecture,
                recipe.scale,
                recipe.channels,
            )
    gan, whole = listed["span-x4-gan"], listed["srgan-faces-64"]
    network = registry.BUILDERS["span"](scale=4, channels=3, features=48)
    assert gan["parameters"] == sum(p.numel() for p in network.parameters())
    assert whole["training_data"].startswith("faces of yours: HR patches of 64x64 px (whole)")
    assert "LR by bicubic, unknown, mild" in listed["swish-x4"]["training_data"]


def test_the_reach_told_is_that_of_the_shipped_weights(listed: dict[str, dict[str, Any]]) -> None:
    for name in registry.shipped():
        model = load(name)
        assert listed[name]["reach_px"] == reach_px(model.network, channels=model.spec.channels)


def test_networks_that_differ_in_their_weights_alone_are_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []

    def reach(network: torch.nn.Module, *, channels: int) -> int:
        measured.append(network)
        return channels

    models._measured.cache_clear()
    monkeypatch.setattr(models, "reach_px", reach)
    threads = torch.get_num_threads()
    for name in ("span-x4", "span-x4-gan", "srgan-x4", "srgan-faces-64", "srgan-faces-128"):
        models.describe(name)
    models._measured.cache_clear()
    assert len(measured) == 3
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("name", "features"),
    [("srgan-x4", True), ("srgan-faces-96", True), ("span-x4-gan", True), ("swish-x4", False)],
)
def test_the_command_told_is_one_that_the_command_line_takes(
    name: str, features: bool, unshipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unshipped / "DIR").mkdir()
    monkeypatch.chdir(unshipped)
    program, command, *words = shlex.split(models.describe(name)["train"])
    assert (program, command) == ("upres", "train")
    whole = main.make_context("upres", [command])
    taken = main.commands[command].make_context(command, words, parent=whole).params
    assert (taken["src"], taken["recipe"], str(taken["out_dir"])) == ("PICTURES", name, "DIR")
    assert bool(taken["features"]) == features


def test_recipes_for_faces_and_no_others_say_that_they_are_never_shipped(
    listed: dict[str, dict[str, Any]],
) -> None:
    assert {name for name, values in listed.items() if "never shipped" in values["note"]} == FACES
    assert not FACES & registry.shipped().keys()


def test_a_model_is_told_in_words(upres: Command) -> None:
    said = upres("models", "span-x4")
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert lines["arguments"] == "features 48"
    assert "; Set14: lpips 0." in lines["scores"]
    assert "{" not in said.out


def test_a_recipe_is_told_with_its_command_and_nothing_that_it_lacks(upres: Command) -> None:
    lines = dict(line.split(maxsplit=1) for line in upres("models", "dcgan-x4").out.splitlines())
    assert lines["train"] == "upres train PICTURES --recipe dcgan-x4 --out DIR"
    assert lines["weights"] == "recipe"
    assert "never shipped" in lines["note"]
    assert "sha256" not in lines
    assert "train" not in dict(
        line.split(maxsplit=1) for line in upres("models", "span-x4").out.splitlines()
    )


def test_the_table_tells_scores_and_what_is_to_be_trained_in_120_columns(
    upres: Command,
) -> None:
    text = upres("models").out
    assert max(map(len, text.splitlines())) <= 120
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["srgan-faces-64"].split()[1:3] == ["train", "it"]
    assert "shipped" in lines["span-x4"]
    assert f"{load('span-x4').spec.scores['Set14']['psnr_y']:.3f}" in lines["span-x4"]


def test_weights_that_are_shipped_take_the_place_of_their_recipe(unshipped: Path) -> None:
    assert models.describe("srcnn-x4")["weights"] == "recipe"
    model = ModelSpec(
        name="srcnn-x4",
        architecture="srcnn",
        scale=4,
        channels=3,
        training_data="1,200 photographs (CC0), 10 steps",
        scores={"Set14": {"psnr_y": 26.5, "lpips": 0.31237}},
    )
    network = registry.build(model)
    (unshipped / "srcnn-x4.safetensors").write_bytes(to_bytes(model, network.state_dict()))
    found, text = models.table()
    (entry,) = [values for values in found if values["name"] == "srcnn-x4"]
    assert (entry["weights"], entry["train"]) == ("shipped", "")
    (line,) = [line for line in text.splitlines() if line.startswith("srcnn-x4")]
    for cell in ("shipped", "1,200 photographs ", "26.500", "0.3124"):
        assert cell in line


def test_a_checkpoint_file_is_told_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(registry.shipped()["span-x4"].read_bytes())
    assert models.describe(str(path))["weights"] == "file"


@pytest.mark.parametrize(
    ("wrong", "right"), [("srgan-face-64", "srgan-faces-64"), ("spam-x4", "span-x4")]
)
def test_an_unknown_name_is_one_line_with_the_nearest_of_all(
    wrong: str, right: str, upres: Command
) -> None:
    said = upres("models", wrong)
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert f"did you mean {right}?" in line


def test_upscaling_by_a_recipe_without_weights_is_one_line_that_tells_how_to_train_it(
    upres: Command, tmp_path: Path
) -> None:
    said = upres("upscale", tmp_path, tmp_path / "job", "--model", "srgan-faces-64")
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert "no weights are shipped for srgan-faces-64" in line
    assert "`upres train PICTURES --recipe srgan-faces-64 --out DIR --features DIR`" in line
    assert "best.safetensors" in line
    assert not (tmp_path / "job").exists()


def test_a_file_wins_over_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srgan-faces-64").write_bytes(registry.shipped()["span-x4"].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert load_model("srgan-faces-64").spec.name == "span-x4"
