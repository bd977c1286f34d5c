"""Losses against values computed by hand, and counts that add up."""

from __future__ import annotations

import math

import pytest
import torch

from models.losses import CONTENT_LOSSES, GAN_LOSSES, Judgements, against, judged


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


REAL = torch.tensor([logit(0.9), logit(0.6)])
FAKE = torch.tensor([logit(0.2), logit(0.5)])


def test_content_losses_are_the_means_of_absolute_and_squared_differences() -> None:
    a, b = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.25, 1.0, 0.0])
    assert float(CONTENT_LOSSES["l1"](a, b)) == pytest.approx(0.75 / 3)
    assert float(CONTENT_LOSSES["mse"](a, b)) == pytest.approx(0.3125 / 3)


def test_the_vanilla_generator_minimises_minus_log_d() -> None:
    loss = GAN_LOSSES["vanilla"].generator(REAL, FAKE)
    assert float(loss) == pytest.approx(-(math.log(0.2) + math.log(0.5)) / 2, rel=1e-5)


def test_the_vanilla_discriminator_adds_both_sides() -> None:
    loss = GAN_LOSSES["vanilla"].discriminator(REAL, FAKE)
    real = -(math.log(0.9) + math.log(0.6)) / 2
    fake = -(math.log(0.8) + math.log(0.5)) / 2
    assert float(loss) == pytest.approx(real + fake, rel=1e-5)


def test_label_smoothing_is_for_the_real_alone() -> None:
    loss = GAN_LOSSES["vanilla"].discriminator(REAL, FAKE, real_label=0.9)
    real = -sum(0.9 * math.log(p) + 0.1 * math.log(1 - p) for p in (0.9, 0.6)) / 2
    fake = -(math.log(0.8) + math.log(0.5)) / 2
    assert float(loss) == pytest.approx(real + fake, rel=1e-5)


def test_relativistic_losses_compare_with_the_average_of_the_other_side() -> None:
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([1.0, -1.0])
    # Averages 3 and 0, so real - 0 = (2, 4) and fake - 3 = (-2, -4).
    sigmoid = [1 / (1 + math.exp(-v)) for v in (2.0, 4.0)]
    right = -sum(math.log(p) for p in sigmoid)
    wrong = -sum(math.log(1 - p) for p in sigmoid)
    game = GAN_LOSSES["relativistic"]
    assert float(game.discriminator(real, fake)) == pytest.approx(right, rel=1e-5)
    assert float(game.generator(real, fake)) == pytest.approx(wrong, rel=1e-5)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_the_two_sides_pull_in_opposite_directions(name: str) -> None:
    game = GAN_LOSSES[name]
    real, fake = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3, requires_grad=True)
    (up,) = torch.autograd.grad(game.generator(real, fake), fake)
    (down,) = torch.autograd.grad(game.discriminator(real, fake), fake)
    assert bool((up < 0).all())
    assert bool((down > 0).all())


def test_a_sure_logit_costs_no_infinity() -> None:
    assert float(against(torch.tensor([-200.0]), 1.0)) == pytest.approx(200.0)
    assert float(against(torch.tensor([200.0]), 1.0)) == pytest.approx(0.0)


@pytest.mark.parametrize("label", [-0.1, 1.1])
def test_a_label_beyond_0_to_1_is_refused(label: float) -> None:
    with pytest.raises(ValueError, match=f"label is {label}, expected 0"):
        against(REAL, label)


def test_judgements_count_the_four_cases() -> None:
    found = judged(torch.tensor([2.0, 0.1, -1.0]), torch.tensor([-3.0, 0.0, 0.5, -0.1]))
    assert found == Judgements(true_positive=2, false_negative=1, true_negative=3, false_positive=1)
    assert found.accuracy == pytest.approx(5 / 7)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(3 / 4)
    assert found.f1 == pytest.approx(2 / 3)


def test_judgements_of_parts_add_up_to_those_of_the_whole() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(7, 1, 4, 4), torch.randn(5, 1, 4, 4)
    parts = judged(real[:3], fake[:1]) + judged(real[3:], fake[1:]) + Judgements()
    assert parts == judged(real, fake)


def test_shares_of_nothing_are_none() -> None:
    nothing = Judgements()
    for share in ("accuracy", "precision", "recall", "specificity", "f1"):
        assert getattr(nothing, share) is None
    always_generated = judged(torch.tensor([-1.0]), torch.tensor([-1.0]))
    assert always_generated.precision is None
    assert always_generated.f1 == 0.0
