"""Training, step by step: batches in, checkpoints and figures out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.compute.inference import resolve_precision
from pipeline.errors import TrainingError
from pipeline.training.batches import Pairs
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.descent import Descent
from pipeline.training.fitting import check_fits, fit_to_patches
from pipeline.training.review import Review, TrainProgress
from pipeline.training.session import Session, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compute.stop import Stop
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from pipeline.training.objective import FeatureFiles
    from pipeline.training.processes import Processes

    Tick = Callable[[int, int], None]
    Report = Callable[[TrainProgress], None]


@dataclass(frozen=True, slots=True)
class TrainEnd:
    """The step that a training ended after; less than `steps` where it was asked to stop."""

    step: int
    steps: int


def train(
    dataset: Dataset,
    recipe: TrainRecipe,
    settings: TrainSettings,
    *,
    files: FeatureFiles,
    processes: Processes,
    tick: Tick = lambda _step, _of: None,
    report: Report = lambda _: None,
    stop: Stop | None = None,
) -> TrainEnd:
    """Train to the end of `recipe`, or until a `stop` is requested; return where it ended.

    `tick` hears of every step, and before these of the last one that was made before; `report` of
    every validation.

    Leaves in `settings.out_dir`: ``last.safetensors`` and ``best.safetensors`` (the averaged
    weights), ``checkpoints/`` (the last few), ``state.safetensors`` (what resuming needs),
    ``recipe.toml``, and what `Records` writes.

    Raises:
        RecipeError: if the dataset does not fit the recipe, or a loss lacks its features.
        UsageError: if the folder holds a training and `resume` is not asked for.
        TrainingError: after ten steps in a row whose loss or gradient is not finite or far off, or
            where the networks that it ends with are; what was good before stays, and the message
            says how to go on from it.
        JobBusyError: if another training has taken over the folder, which is in a bucket.
    """
    check_fits(dataset, recipe)
    recipe = fit_to_patches(recipe, len(dataset.rows("train")), processes=processes)
    precision = resolve_precision(recipe.precision, device=str(processes.device))
    recipe = replace(recipe, precision=precision)
    session = Session.open(dataset, recipe, settings, files=files, processes=processes)
    training = Training(session)
    training.run(tick, report, stop)
    return TrainEnd(session.state.step, recipe.steps)


class Training:
    """One training on its way: the loop over its steps."""

    def __init__(self, session: Session) -> None:
        self.session, self.state, self.recipe = session, session.state, session.recipe
        self.checkpoints = Checkpoints(session)
        self.review = Review(session, self.checkpoints)
        self.pairs = Pairs.open(
            session.dataset,
            session.recipe,
            processes=session.processes,
            first_step=session.state.step,
            workers=session.settings.workers,
            memory=session.settings.memory,
        )
        self.descent = Descent(session, self.pairs)

    def run(self, tick: Tick, report: Report, stop: Stop | None) -> None:
        """Make every step that is left, or those until a stop is requested."""
        state, steps = self.state, self.recipe.steps
        first = state.step
        began = time.perf_counter() - state.seconds
        if first:
            tick(first, steps)
        try:
            with self.pairs, self.review:
                while state.step < steps and not self._is_stopped(stop):
                    self.descent.step()
                    state.step += 1
                    state.seconds = time.perf_counter() - began
                    tick(state.step, steps)
                    self._keep_up(report)
            self._check_end(first)
        except TrainingError as error:
            raise TrainingError(self.checkpoints.advice(str(error))) from error
        if state.step < steps:
            self._check_held()
            self.checkpoints.save_state()

    def _keep_up(self, report: Report) -> None:
        """Validate and write what is due after a step."""
        step, recipe, leads = self.state.step, self.recipe, self.session.processes.leads
        ended = step == recipe.steps
        # A stage that ends is validated, as its best is the next one's beginning.
        stage_ends = bool(recipe.discriminator) and step == recipe.pretrain_steps
        validated = step % recipe.validation_interval == 0 or ended or stage_ends
        numbered = leads and (step % recipe.checkpoint_interval == 0 or ended)
        asked = recipe.checkpoint_every and step % recipe.checkpoint_every == 0
        saved = ended or asked or self.checkpoints.state_is_due
        if validated or numbered or saved:
            self._check_held()
        if validated:
            progress = self.review.validate()
            if leads:
                report(progress)
            if stage_ends:
                self.state.best, self.state.worse, self.state.fallen = -math.inf, 0, 1.0
        if numbered:
            self.checkpoints.write_numbered()
        if saved:
            self.checkpoints.save_state()

    def _check_held(self) -> None:
        """Make sure, before anything is written, that the folder is still this training's."""
        claim = self.session.settings.claim
        if claim is not None:
            claim.check()

    def _check_end(self, first: int) -> None:
        """Raise TrainingError in all processes where nothing was learned, or it is far off now."""
        state, processes = self.state, self.session.processes
        if state.skipped and state.skipped >= state.step - first:
            raise TrainingError(self.descent.why_skipped())
        sound = not processes.leads or self.session.is_sound()
        if processes.mean(float(sound)) < 1:
            when = "it ends" if state.step == self.recipe.steps else "it was stopped"
            raise TrainingError(f"the network is far off where {when}, at step {state.step}")

    def _is_stopped(self, stop: Stop | None) -> bool:
        # All processes must end after one and the same step.
        requested = stop is not None and stop.requested
        return self.session.processes.mean(float(requested)) > 0
