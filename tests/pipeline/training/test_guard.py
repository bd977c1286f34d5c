"""Steps that blow up are not kept, and a training that does so ends in time."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import TrainingError
from pipeline.training.objective import Objective
from pipeline.training.state import stored_step
from tests.pipeline.training.small_trainings import GAN, NORMED, PLAIN, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset


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
    recipe: TrainRecipe,
    rate: float,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: Callable[[TrainRecipe], Path],
) -> None:
    good = replace(recipe, checkpoint_every=1, schedule="constant", warmup_share=0.0)
    shutil.copytree(undisturbed(good), tmp_path, dirs_exist_ok=True)
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
    shutil.copytree(undisturbed(good), whole)
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


def test_a_training_that_learned_in_no_step_has_failed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> dict[str, Tensor]:
        return {"l1": torch.tensor(float("nan"), requires_grad=True)}

    monkeypatch.setattr("pipeline.training.objective.Objective.of_generator", nothing)
    with pytest.raises(TrainingError, match="for 6 steps up to 6"):
        run(dataset, PLAIN, tmp_path)
