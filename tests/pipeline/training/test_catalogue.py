"""The catalogue of models: every system once, and of those without weights how to train them."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flows.terminal.model_table import model_table
from models import registry
from models.checkpoint import load, to_bytes
from models.reach import reach_px
from models.spec import ModelSpec
from pipeline.compute.inference import load_model
from pipeline.recipes.files import recipe_names
from pipeline.recipes.training import load_recipe
from pipeline.training import catalogue

if TYPE_CHECKING:
    from pathlib import Path

FACES = {
    "srgan-faces-64", "srgan-faces-96", "srgan-faces-128", "dcgan-x4", "dcgan-denoise",
    "dcgan-deblur", "swish-gray-x2",
}  # fmt: skip
"""Recipes whose weights the terms of their research pictures keep from being shipped."""

PREPARING = {"photographs-x4", "swish-x4-halves"}
"""Recipes that train nothing."""


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, Any]]:
    documents = [entry.to_json() for entry in catalogue.list_models()]
    assert len({values["name"] for values in documents}) == len(documents)
    return {values["name"]: values for values in documents}


@pytest.fixture
def unshipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights are shipped from, and none are."""
    monkeypatch.setattr("models.shipped.WEIGHTS_DIR", tmp_path)
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
    listed = {entry.spec.name: entry for entry in catalogue.list_models()}
    for name, entry in listed.items():
        if entry.weights == "recipe":
            recipe, spec = load_recipe(name), entry.spec
            assert (spec.architecture, spec.scale, spec.channels) == (
                recipe.architecture,
                recipe.scale,
                recipe.channels,
            )
    gan, whole = listed["span-x4-gan"], listed["srgan-faces-64"]
    network = registry.BUILDERS["span"](scale=4, channels=3, features=48)
    assert gan.parameters == sum(p.numel() for p in network.parameters())
    assert whole.spec.training_data.startswith("faces of yours: HR patches of 64x64 px (whole)")
    assert "LR by bicubic, unknown, mild" in listed["swish-x4"].spec.training_data


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

    # What was measured before stays known to the tests after this one.
    monkeypatch.setattr(catalogue, "_measured", cache(catalogue._measured.__wrapped__))
    monkeypatch.setattr(catalogue, "reach_px", reach)
    threads = torch.get_num_threads()
    for name in ("span-x4", "span-x4-gan", "srgan-x4", "srgan-faces-64", "srgan-faces-128"):
        catalogue.describe_model(name)
    assert len(measured) == 3
    assert torch.get_num_threads() == threads


def test_recipes_for_faces_and_no_others_say_that_they_are_never_shipped(
    listed: dict[str, dict[str, Any]],
) -> None:
    assert {name for name, values in listed.items() if "never shipped" in values["note"]} == FACES
    assert not FACES & registry.shipped().keys()


def test_weights_that_are_shipped_take_the_place_of_their_recipe(unshipped: Path) -> None:
    assert catalogue.describe_model("srcnn-x4").weights == "recipe"
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
    (entry,) = [entry for entry in catalogue.list_models() if entry.spec.name == "srcnn-x4"]
    assert (entry.weights, entry.train) == ("shipped", "")
    text = model_table([entry])
    (line,) = [line for line in text.splitlines() if line.startswith("srcnn-x4")]
    for cell in ("shipped", "1,200 photographs ", "26.500", "0.3124"):
        assert cell in line


def test_a_checkpoint_file_is_told_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(registry.shipped()["span-x4"].read_bytes())
    assert catalogue.describe_model(str(path)).weights == "file"


def test_a_file_wins_over_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srgan-faces-64").write_bytes(registry.shipped()["span-x4"].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert load_model("srgan-faces-64").spec.name == "span-x4"
