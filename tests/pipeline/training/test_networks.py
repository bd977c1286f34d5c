"""The networks of a training: what they begin with, and from whom they learn."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import checkpoint
from models.interpolation import enlarge
from pipeline.compute.inference import from_unit_range
from pipeline.errors import ModelError, RecipeError
from pipeline.pictures.metrics import score_picture
from pipeline.training.networks import build_networks, model_spec
from tests.pipeline.training.small_trainings import GAN, PLAIN, held_out, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from pipeline.training.review import TrainProgress


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


@pytest.mark.parametrize("architecture", ["span", "srresnet"])
def test_a_wider_network_begins_with_what_a_narrower_one_computes(
    tmp_path: Path, architecture: str
) -> None:
    def of(features: int, initial: str = "") -> TrainRecipe:
        return replace(
            PLAIN, architecture=architecture, arguments={"features": features}, initial=initial
        )

    narrow, wide = of(8), of(16)
    file = tmp_path / "narrow.safetensors"
    first = build_networks(narrow, hr_px=(32, 32)).generator.eval()
    file.write_bytes(checkpoint.to_bytes(model_spec(narrow), first.state_dict()))
    second = build_networks(replace(wide, initial=str(file)), hr_px=(32, 32)).generator.eval()
    x = torch.rand(1, PLAIN.channels, 20, 24)
    with torch.inference_mode():
        torch.testing.assert_close(second(x), first(x), atol=1e-5, rtol=1e-4)
    outputs = {name: len(tensor) for name, tensor in first.state_dict().items() if tensor.ndim == 4}
    for name, many in outputs.items():
        added = second.state_dict()[name][many:]
        assert not added.numel() or added.count_nonzero(), f"{name} cannot learn"


def test_a_narrower_network_or_one_of_another_scale_is_not_widened(tmp_path: Path) -> None:
    wide = replace(PLAIN, arguments={"features": 16})
    file = tmp_path / "wide.safetensors"
    weights = build_networks(wide, hr_px=(32, 32)).generator.state_dict()
    file.write_bytes(checkpoint.to_bytes(model_spec(wide), weights))
    for other in (
        replace(PLAIN, arguments={"features": 12}, initial=str(file)),
        replace(PLAIN, arguments={"features": 24}, initial=str(file), scale=PLAIN.scale * 2),
    ):
        with pytest.raises(RecipeError, match="that is not wider"):
            build_networks(other, hr_px=(32, 32))


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


def test_an_unknown_discriminator_is_told(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected one of"):
        run(dataset, replace(GAN, discriminator="judge"), tmp_path)
