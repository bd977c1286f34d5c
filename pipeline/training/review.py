"""What happens at a validation: scores, held-out losses, the best model, a row of figures."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.training.means import Means
from pipeline.training.records import ADVERSARIAL, PRETRAINING, Records

if TYPE_CHECKING:
    from pipeline.training.checkpoints import Checkpoints
    from pipeline.training.session import Session
    from pipeline.training.validation import Validation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """The result of a validation; scores are None where there is nothing to validate with."""

    step: int
    steps: int
    loss: float
    validation: Validation | None
    waiting_share: float


class Review:
    """Validates a session, ranks its models, and records both. A context, as `Records` is."""

    def __init__(self, session: Session, checkpoints: Checkpoints) -> None:
        self.session, self.checkpoints = session, checkpoints
        self.state, self.recipe = session.state, session.recipe
        self.device, self.validator = session.processes.device, session.validator
        self.records = Records(session.settings.out_dir)
        # What a network must be better than, on the same patches.
        self._baseline = (
            self.validator.score(self.validator.bicubic(), device=self.device)
            if self.validator
            else None
        )

    def __enter__(self) -> Review:
        self.records.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.records.__exit__()

    def validate(self) -> TrainProgress:
        """Score the averaged weights, write them and the figures, and begin new means."""
        state = self.state
        scores, sr = None, None
        if self.validator is not None:
            sr = self.validator.enlarged(state.average, device=self.device)
            scores = self.validator.score(sr, device=self.device)
        merit = self._merit(scores)
        improved = merit > state.best or scores is None
        if self.session.processes.leads:
            if self.session.is_sound():
                self.checkpoints.write_models(best=improved)
            else:
                logger.warning("step %d is far off what was before: it is not kept", state.step)
            self.records.record(self._row(scores) | self._held_out())
            if self.validator is not None and sr is not None:
                self.records.show(self.validator, sr, state.step)
        self._mind_plateau(improved=improved)
        state.best = max(state.best, merit)
        loss = state.means.row().get("loss")
        state.means = Means()
        return TrainProgress(
            step=state.step,
            steps=self.recipe.steps,
            loss=math.nan if loss is None else loss,
            validation=scores,
            waiting_share=state.waited_s / max(state.seconds, 1e-9),
        )

    @property
    def _last_step(self) -> int:
        """Return the number of the step that was made last."""
        return self.state.step - 1

    def _merit(self, scores: Validation | None) -> float:
        """Return what ranks models: PSNR, or LPIPS in an adversarial stage, which PSNR does not."""
        if scores is None:
            return -math.inf
        if scores.lpips is not None and self.recipe.is_adversarial(self._last_step):
            return -scores.lpips
        return scores.psnr_y

    def _mind_plateau(self, *, improved: bool) -> None:
        # All processes must take one rate, but only the first one validates.
        processes = self.session.processes
        worse = processes.mean(float(not improved) if processes.leads else 0.0) > 0
        self.state.worse = self.state.worse + 1 if worse else 0
        if self.recipe.schedule == "plateau" and self.state.worse > self.recipe.patience:
            self.state.fallen *= self.recipe.gamma
            self.state.worse = 0

    def _row(self, scores: Validation | None) -> dict[str, float | str | None]:
        state, recipe = self.state, self.recipe
        adversarial = recipe.is_adversarial(self._last_step)
        return {
            **state.means.row(),
            "step": str(state.step),
            "stage": ADVERSARIAL if adversarial else PRETRAINING,
            "learning_rate": recipe.rate(self._last_step, fallen=state.fallen),
            "psnr_y": scores.psnr_y if scores else None,
            "ssim_y": scores.ssim_y if scores else None,
            "lpips": scores.lpips if scores else None,
            "seconds": state.seconds,
            "waiting_s": state.waited_s,
        }

    @torch.no_grad()
    def _held_out(self) -> dict[str, float | None]:
        """Return the losses on all validation patches, and the scores of bicubic enlargement.

        They are what a step would count: of the output as it is, by the same terms, against the
        same targets, in the same precision; but of the averaged weights.
        """
        session, step = self.session, self._last_step
        if self.validator is None or self._baseline is None:
            return {}
        discriminator = session.plain_discriminator(step)
        sums: dict[str, float] = defaultdict(float)
        for lr, hr in self.validator.pairs(device=self.device):
            with session.autocast():
                sr = self.state.average(lr).float()
            target = session.target(lr, hr)
            with session.autocast():
                losses = session.objective.held_out(
                    sr, target, step=step, discriminator=discriminator
                )
            for name, value in losses.items():
                sums[name] += value * len(hr) / len(self.validator.hr)
        return sums | {f"bicubic_{k}": v for k, v in asdict(self._baseline).items()}
