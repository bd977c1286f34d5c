"""What generators and discriminators are trained by, from pictures and logits alone.

Losses that look through another network are in `models.vgg`. A logit is what a discriminator
returns: ``D = sigmoid(logit)`` is its probability that the picture is real. Every loss is a mean
over all logits, so one a picture and one a pixel weigh the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "mse": functional.mse_loss,
}
"""Name to ``loss(sr, hr)`` of pictures of one shape, in 0..1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GanLoss:
    """The two sides of one game.

    Both take the logits of real and of generated pictures, of one shape, and return a scalar.
    `real_label` below 1 (one-sided label smoothing) holds the discriminator back.
    """

    generator: Callable[[Tensor, Tensor], Tensor]
    """``generator(real, fake)``."""
    discriminator: Callable[..., Tensor]
    """``discriminator(real, fake, real_label=1.0)``."""


def vanilla_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of ``-log D(fake)``; `real` does not count.

    Source: Goodfellow et al., "Generative Adversarial Nets", 2014, section 3 (the form that does
    not saturate); equation 6 of SRGAN.
    """
    return against(fake, 1.0)


def vanilla_discriminator(real: Tensor, fake: Tensor, *, real_label: float = 1.0) -> Tensor:
    """Return the mean of ``-log D(real)`` plus the mean of ``-log(1 - D(fake))``.

    With `real_label` t the first is ``-t log D(real) - (1 - t) log(1 - D(real))``.
    Source: Goodfellow et al., 2014; Salimans et al., "Improved Techniques for Training GANs", 2016.
    """
    return against(real, real_label) + against(fake, 0.0)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Return how far the generated do not yet look more real than the average real, both ways.

    Source: Jolicoeur-Martineau, "The relativistic discriminator", 2018 (arXiv 1807.00734);
    equation 2 of ESRGAN (arXiv 1809.00219).
    """
    return against(real - fake.mean(), 0.0) + against(fake - real.mean(), 1.0)


def relativistic_discriminator(real: Tensor, fake: Tensor, *, real_label: float = 1.0) -> Tensor:
    """Return how far the real do not yet look more real than the average generated, both ways.

    Source: as `relativistic_generator`; equation 1 of ESRGAN.
    """
    return against(real - fake.mean(), real_label) + against(fake - real.mean(), 0.0)


def against(logits: Tensor, label: float) -> Tensor:
    """Return the mean binary cross entropy of ``sigmoid(logits)`` and one label in 0..1."""
    if not 0 <= label <= 1:
        raise ValueError(f"label is {label}, expected 0 (generated) to 1 (real)")
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


GAN_LOSSES: dict[str, GanLoss] = {
    "vanilla": GanLoss(generator=vanilla_generator, discriminator=vanilla_discriminator),
    "relativistic": GanLoss(
        generator=relativistic_generator, discriminator=relativistic_discriminator
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgements:
    """How often a discriminator was right; positive is "real". ``Judgements()`` adds nothing.

    A share of nothing is None.
    """

    true_positive: int = 0
    """Real, and judged real."""
    false_negative: int = 0
    """Real, and judged generated."""
    true_negative: int = 0
    """Generated, and judged generated."""
    false_positive: int = 0
    """Generated, and judged real."""

    def __add__(self, other: Judgements) -> Judgements:
        """Return the counts of both."""
        return Judgements(
            true_positive=self.true_positive + other.true_positive,
            false_negative=self.false_negative + other.false_negative,
            true_negative=self.true_negative + other.true_negative,
            false_positive=self.false_positive + other.false_positive,
        )

    @property
    def accuracy(self) -> float | None:
        """Return the share of judgements that were right."""
        right = self.true_positive + self.true_negative
        return _share(right, right + self.false_negative + self.false_positive)

    @property
    def precision(self) -> float | None:
        """Return the share of the real among those judged real."""
        return _share(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float | None:
        """Return the share of those judged real among the real."""
        return _share(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float | None:
        """Return the share of those judged generated among the generated."""
        return _share(self.true_negative, self.true_negative + self.false_positive)

    @property
    def f1(self) -> float | None:
        """Return the harmonic mean of precision and recall."""
        twice = 2 * self.true_positive
        return _share(twice, twice + self.false_positive + self.false_negative)


def judged(real: Tensor, fake: Tensor) -> Judgements:
    """Return the counts of one batch of logits of any shape; above 0 means judged real."""
    real_right, fake_wrong = int((real > 0).sum()), int((fake > 0).sum())
    return Judgements(
        true_positive=real_right,
        false_negative=real.numel() - real_right,
        true_negative=fake.numel() - fake_wrong,
        false_positive=fake_wrong,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
