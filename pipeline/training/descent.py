"""One step of gradient descent: of the generator, and in an adversarial stage the discriminator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pipeline.errors import TrainingError
from pipeline.training.means import Means
from pipeline.training.objective import total

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.training.batches import Pairs
    from pipeline.training.optimisers import Learner
    from pipeline.training.session import Session

_SKIPPED_IN_A_ROW = 10


class Descent:
    """Moves the weights of a session step by step, and counts what it met in the state's means."""

    def __init__(self, session: Session, pairs: Pairs) -> None:
        self.session, self.pairs = session, pairs
        self.state, self.recipe = session.state, session.recipe
        self.processes = session.processes
        generator = self.processes.shared(self.state.generator.network)
        self._generator = torch.compile(generator) if self.recipe.compile else generator
        learner = self.state.discriminator
        self._discriminator = self.processes.shared(learner.network) if learner else None

    def step(self) -> None:
        """Make one step, and count its figures.

        Raises:
            TrainingError: if it is the tenth in a row that had to be skipped.
        """
        figures = Means()
        self._learn(figures)
        self.state.means += figures.of_all(self.processes)

    def why_skipped(self) -> str:
        """Return why the last steps were not made."""
        usual = self.state.guard.loss
        before = f" (it was {usual.mean:.3g})" if usual.count else ""
        return (
            f"the loss or its gradient was not finite, or far off{before}, for "
            f"{self.state.skipped} steps up to {self.state.step}"
        )

    def _learn(self, figures: Means) -> None:
        """Move the weights, or skip that where loss or gradient is not finite, or far off."""
        state, recipe = self.state, self.recipe
        rate = recipe.rate(state.step, fallen=state.fallen)
        state.generator.set_rate(rate)
        state.generator.zero_grad()
        adversarial = recipe.is_adversarial(state.step)
        state.guard.enter(adversarial=adversarial)
        enlarged, losses = [], []
        for _ in range(recipe.accumulate):
            lr, hr = self._next_pair()
            with self.session.autocast():
                sr = self._generator(lr)
            enlarged.append((sr.detach(), hr))
            losses.append(self._learn_generator(sr.float(), self.session.target(lr, hr), figures))
        weights = recipe.accumulate * sum(recipe.losses_at(state.step).values())
        loss = self.processes.mean(sum(losses))
        if not (state.guard.takes_loss(loss, weights=weights) and self._takes(state.generator)):
            self._skip()
            return
        state.generator.step(recipe.clip_norm)
        state.average_in(recipe.ema)
        if not adversarial or self._learn_discriminator(enlarged, rate, figures):
            state.skipped = 0
        else:
            self._skip()

    def _next_pair(self) -> tuple[Tensor, Tensor]:
        before = self.pairs.waited_s
        lr, hr = self.pairs.next_pair()
        self.state.waited_s += self.pairs.waited_s - before
        if self.processes.leads:
            self.session.soundness.begin(lr, hr, self.state.generators)
        return lr, hr

    def _learn_generator(self, sr: Tensor, hr: Tensor, figures: Means) -> float:
        discriminator = self.session.plain_discriminator(self.state.step)
        if discriminator is not None:
            discriminator.requires_grad_(False)
        with self.session.autocast():
            losses = self.session.objective.of_generator(
                sr, hr, step=self.state.step, discriminator=discriminator
            )
        loss = total(losses.values())
        (loss / self.recipe.accumulate).backward()
        for name, value in losses.items():
            figures.add(name, float(value.detach()))
        figures.add("loss", float(loss.detach()))
        return float(loss.detach())

    def _learn_discriminator(
        self, enlarged: list[tuple[Tensor, Tensor]], rate: float, figures: Means
    ) -> bool:
        """Move the discriminator's weights, and return True, unless its loss is not finite."""
        learner, recipe = self.state.discriminator, self.recipe
        if learner is None or self._discriminator is None:
            return True
        # It falls as the generator's does, from a rate of its own.
        learner.set_rate(
            rate * (recipe.discriminator_rate or recipe.learning_rate) / recipe.learning_rate
        )
        learner.network.requires_grad_(True)
        learner.zero_grad()
        losses = []
        for sr, hr in enlarged:
            with self.session.autocast():
                loss, judgements = self.session.objective.of_discriminator(
                    sr, hr, self._discriminator
                )
            (loss / recipe.accumulate).backward()
            losses.append(float(loss.detach()))
            figures.judgements += judgements
        figures.add("discriminator", sum(losses) / len(losses))
        good = math.isfinite(self.processes.mean(sum(losses))) and self._takes(learner)
        if good:
            learner.step(recipe.clip_norm)
        return good

    def _takes(self, learner: Learner) -> bool:
        """Return whether a gradient is one to step by; the same in every process."""
        return self.state.guard.takes_norm(
            self.processes.mean(learner.gradient_norm()),
            of_discriminator=learner is self.state.discriminator,
            clipped=bool(self.recipe.clip_norm),
        )

    def _skip(self) -> None:
        """Count a step that was not made."""
        self.state.skipped += 1
        if self.state.skipped >= _SKIPPED_IN_A_ROW:
            raise TrainingError(self.why_skipped())
