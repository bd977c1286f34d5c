"""Training, step by step: batches in, checkpoints and figures out."""

from __future__ import annotations

import logging
import math
import re
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from models import checkpoint
from models.blocks import folded
from pipeline.compute.inference import load_model, resolve_precision
from pipeline.dataset.loader import load_batches
from pipeline.dataset.patch_order import BatchSpec
from pipeline.dataset.splits import HELD_OUT
from pipeline.degradation.batch import degrade_batch
from pipeline.errors import RecipeError, SourceError, TrainingError, UsageError
from pipeline.recipes.training import load_recipe
from pipeline.storage.atomic import remove_partials, write_atomic
from pipeline.tables import is_utf8
from pipeline.training.guard import Guard, Probe
from pipeline.training.objective import Objective, total
from pipeline.training.records import Watch
from pipeline.training.state import Means, TrainState, model_spec, stored_step
from pipeline.training.validation import SPLIT as VALIDATED
from pipeline.training.validation import Judge, Validation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.compute.cluster import Stop
    from pipeline.dataset.examples import Batch
    from pipeline.dataset.loader import Batches
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from pipeline.training.objective import FeatureFiles
    from pipeline.training.processes import Processes
    from pipeline.training.state import Player

    Pixels = NDArray[np.uint8]

logger = logging.getLogger(__name__)

LAST, BEST, STATE, RECIPE = (
    "last.safetensors",
    "best.safetensors",
    "state.safetensors",
    "recipe.toml",
)
CHECKPOINTS = "checkpoints"
_NUMBERED = r"[0-9]{8,}\.safetensors"
_SKIPPED_IN_A_ROW = 10
_SAFE_RATE = 1e-3
"""What is advised at most where a training blew up."""
_SAVED_EVERY_S = 60.0
"""A training that is killed loses no more than this, and no step of it is made otherwise again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How and where a training runs; none of it decides the weights."""

    out_dir: Path
    resume: bool = False
    workers: int = 1
    """Processes that read patches, where these do not lie in memory."""
    memory: str = "auto"
    data: str = ""
    """What the model card says of the pictures."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """What was found at a validation; scores are None where there is nothing to validate with."""

    step: int
    steps: int
    loss: float
    validation: Validation | None
    waiting_share: float


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
    tick: Callable[[int, int], None] = lambda _step, _of: None,
    report: Callable[[TrainProgress], None] = lambda _: None,
    stop: Stop | None = None,
) -> TrainEnd:
    """Train to the end of `recipe`, or until a `stop` is requested; return where it ended.

    `tick` hears of every step, and before these of the last one that was made before; `report` of
    every validation.

    Leaves in `settings.out_dir`: ``last.safetensors`` and ``best.safetensors`` (the averaged
    weights), ``checkpoints/`` (the last few), ``state.safetensors`` (what resuming needs),
    ``recipe.toml``, and what `Watch` writes.

    Raises:
        RecipeError: if the dataset does not fit the recipe, or a loss lacks its features.
        UsageError: if the folder holds a training and `resume` is not asked for.
        TrainingError: after ten steps in a row whose loss or gradient is not finite or far off, or
            where the networks that it ends with are; what was good before stays, and the message
            says how to go on from it.
    """
    _check_fits(dataset, recipe)
    recipe = _fitted(recipe, len(dataset.rows("train")), processes=processes)
    precision = resolve_precision(recipe.precision, device=str(processes.device))
    recipe = replace(recipe, precision=precision)
    training = Training(dataset, recipe, settings, files=files, processes=processes)
    training.run(tick, report, stop)
    return TrainEnd(training.state.step, recipe.steps)


class Training:
    """One training on its way."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: TrainRecipe,
        settings: TrainSettings,
        *,
        files: FeatureFiles,
        processes: Processes,
    ) -> None:
        device = processes.device
        self.recipe, self.settings, self.processes = recipe, settings, processes
        self._dataset_dir = dataset.path
        self._teacher = _teacher(recipe, device) if recipe.teacher else None
        self._probe: Probe | None = None
        self._looked: tuple[int, bool] = (-1, True)
        self._has_state = settings.resume
        self._usual_recipe: bytes | None = None
        """Of a training that goes on: the recipe of its state, until another state is kept."""
        self.state = TrainState.begin(
            # What it began with is in its state, and may be gone by now.
            replace(recipe, initial="") if settings.resume else recipe,
            hr_px=dataset.spec.hr_px,
            device=device,
            dataset=dataset.digest(),
        )
        self._begin_or_resume()
        self._tell_what_was_taken()
        self.objective = Objective.of(recipe, files, device=device)
        leads = processes.leads
        self.judge = self._open_judge(dataset, files) if leads else None
        self.watch = Watch(settings.out_dir)
        # What a network must be better than, on the same patches.
        self._baseline = (
            self.judge.score(self.judge.bicubic(), device=device) if self.judge else None
        )
        self.batches = self._open_batches(dataset)
        self._generator = processes.shared(self.state.generator.network)
        self._forward = torch.compile(self._generator) if recipe.compile else self._generator
        judge = self.state.discriminator
        self._judge = processes.shared(judge.network) if judge else None
        self._saved_at = time.monotonic()

    def run(
        self,
        tick: Callable[[int, int], None],
        report: Callable[[TrainProgress], None],
        stop: Stop | None,
    ) -> None:
        """Make every step that is left, or those until a stop is requested."""
        state, recipe = self.state, self.recipe
        first = state.step
        began = time.perf_counter() - state.seconds
        if first:
            tick(first, recipe.steps)
        try:
            with self.batches, self.watch:
                while state.step < recipe.steps and not self._is_stopped(stop):
                    self._step()
                    state.step += 1
                    state.seconds = time.perf_counter() - began
                    tick(state.step, recipe.steps)
                    self._keep_up(report)
            self._check_end(first)
        except TrainingError as error:
            raise TrainingError(self._what_now(str(error))) from error
        if state.step < recipe.steps:
            self._save()

    def _keep_up(self, report: Callable[[TrainProgress], None]) -> None:
        """Validate and write what is due after a step."""
        step, recipe = self.state.step, self.recipe
        ended = step == recipe.steps
        # A stage that ends is validated, as its best is the next one's beginning.
        stage_ends = bool(recipe.discriminator) and step == recipe.pretrain_steps
        if step % recipe.validation_interval == 0 or ended or stage_ends:
            progress = self._validate()
            if self.processes.leads:
                report(progress)
            if stage_ends:
                self.state.best, self.state.worse, self.state.fallen = -math.inf, 0, 1.0
        if self.processes.leads and (step % recipe.checkpoint_interval == 0 or ended):
            self._write_checkpoint()
        asked = recipe.checkpoint_every and step % recipe.checkpoint_every == 0
        if (
            ended
            or asked
            or not self._has_state
            or time.monotonic() - self._saved_at > _SAVED_EVERY_S
        ):
            self._save()

    def _save(self) -> None:
        """Write what resuming needs, unless the weights are about to be lost, or are."""
        if self.processes.leads and not self.state.skipped and self._is_sound():
            write_atomic(self.settings.out_dir / STATE, self.state.to_bytes())
            self._usual_recipe, self._has_state = None, True
        self._saved_at = time.monotonic()

    def _is_sound(self) -> bool:
        """Return whether the networks are worth keeping: finite, and near what they did before."""
        step, sound = self._looked
        if step != self.state.step:
            sound = self.state.is_finite()
            if sound and self._probe is not None:
                sound = self._probe.passes(self._probe.measure(self._tried()))
            self._looked = self.state.step, sound
        return sound

    def _tried(self) -> tuple[nn.Module, nn.Module]:
        return self.state.generator.network, self.state.average

    def _check_end(self, first: int) -> None:
        """Raise TrainingError in all processes where nothing was learned, or it is far off now."""
        state, ended = self.state, self.state.step == self.recipe.steps
        if state.skipped and state.skipped >= state.step - first:
            raise TrainingError(self._why_skipped())
        sound = not self.processes.leads or self._is_sound()
        if self.processes.mean(float(sound)) < 1:
            when = "it ends" if ended else "it was stopped"
            raise TrainingError(f"the network is far off where {when}, at step {self.state.step}")

    def _is_stopped(self, stop: Stop | None) -> bool:
        # All processes must end after one and the same step.
        return self.processes.mean(float(stop is not None and stop.requested)) > 0

    # --- one step --------------------------------------------------------------------------

    def _step(self) -> None:
        """Make one step of gradient descent, and count its figures."""
        figures = Means()
        self._learn(figures)
        self.state.means += figures.of_all(self.processes)

    def _learn(self, figures: Means) -> None:
        """Move the weights, or skip that where loss or gradient is not finite, or far off."""
        state, recipe = self.state, self.recipe
        rate = recipe.rate(state.step, fallen=state.fallen)
        state.generator.set_rate(rate)
        state.generator.zero_grad()
        alone = recipe.is_alone(state.step)
        state.guard.enter(alone=alone)
        pairs, losses = [], []
        for _ in range(recipe.accumulate):
            lr, hr = self._next_pair()
            if self._probe is None and self.processes.leads:
                self._probe = Probe.of(lr, hr, self._tried())
            with self._autocast():
                sr = self._forward(lr)
            pairs.append((sr.detach(), hr))
            if self._teacher is not None:
                hr = self._taught(self._teacher, lr)
            losses.append(self._learn_generator(sr.float(), hr, figures, alone=alone))
        weights = recipe.accumulate * sum(recipe.losses_at(state.step).values())
        loss = self.processes.mean(sum(losses))
        if not (state.guard.takes_loss(loss, weights=weights) and self._takes(state.generator)):
            self._skip()
            return
        state.generator.step(recipe.clip_norm)
        state.average_in(recipe.ema)
        if alone or self._learn_discriminator(pairs, rate, figures):
            state.skipped = 0
        else:
            self._skip()

    def _learn_generator(self, sr: Tensor, hr: Tensor, figures: Means, *, alone: bool) -> float:
        judge = None if alone else self._unwrapped_judge()
        if judge is not None:
            judge.requires_grad_(False)
        with self._autocast():
            found = self.objective.of_generator(sr, hr, step=self.state.step, judge=judge)
        loss = total(found.values())
        (loss / self.recipe.accumulate).backward()
        for name, value in found.items():
            figures.add(name, float(value.detach()))
        figures.add("loss", float(loss.detach()))
        return float(loss.detach())

    @torch.no_grad()
    def _taught(self, teacher: nn.Module, lr: Tensor) -> Tensor:
        with self._autocast():
            taught: Tensor = teacher(lr)
        return taught.float()

    def _learn_discriminator(
        self, pairs: list[tuple[Tensor, Tensor]], rate: float, figures: Means
    ) -> bool:
        """Move the discriminator's weights, and return True, unless its loss is not finite."""
        player, recipe = self.state.discriminator, self.recipe
        if player is None or self._judge is None:
            return True
        # It falls as the generator's does, from a rate of its own.
        player.set_rate(
            rate * (recipe.discriminator_rate or recipe.learning_rate) / recipe.learning_rate
        )
        player.network.requires_grad_(True)
        player.zero_grad()
        losses = []
        for sr, hr in pairs:
            with self._autocast():
                loss, judgements = self.objective.of_discriminator(sr, hr, self._judge)
            (loss / recipe.accumulate).backward()
            losses.append(float(loss.detach()))
            figures.judgements += judgements
        figures.add("discriminator", sum(losses) / len(losses))
        good = math.isfinite(self.processes.mean(sum(losses))) and self._takes(player)
        if good:
            player.step(recipe.clip_norm)
        return good

    def _takes(self, player: Player) -> bool:
        """Return whether a player's gradient is one to step by; the same in every process."""
        norm = self.processes.mean(player.gradient_norm())
        judge, clipped = player is self.state.discriminator, bool(self.recipe.clip_norm)
        return self.state.guard.takes_norm(norm, judge=judge, clipped=clipped)

    def _unwrapped_judge(self) -> nn.Module | None:
        # Gradients pass through it to the generator; its own are not wanted, so nothing is shared.
        return self.state.discriminator.network if self.state.discriminator else None

    def _skip(self) -> None:
        """Count a step that was not made."""
        self.state.skipped += 1
        if self.state.skipped >= _SKIPPED_IN_A_ROW:
            raise TrainingError(self._why_skipped())

    def _why_skipped(self) -> str:
        usual = self.state.guard.loss
        before = f" (it was {usual.mean:.3g})" if usual.count else ""
        return (
            f"the loss or its gradient was not finite, or far off{before}, for "
            f"{self.state.skipped} steps up to {self.state.step}"
        )

    def _what_now(self, why: str) -> str:
        """Return why a training failed, what of its folder is good, and how to go on."""
        out, rate = self.settings.out_dir, self.recipe.learning_rate
        lower = f"--set learning_rate={min(rate / 10, _SAFE_RATE):g}"
        if self._usual_recipe is not None and self.processes.leads:
            write_atomic(out / RECIPE, self._usual_recipe)
            lower = "without what was set now" if self._is_changed() else lower
        if not (out / STATE).exists():
            return f"training diverged: {why}; nothing of it is kept, begin again with {lower}"
        kept = stored_step(out / STATE)
        return (
            f"training diverged: {why}; what {out} holds is good, of step {kept} and before: go "
            f"on with `upres train {self._dataset_dir} --out {out} --resume`, {lower} (now "
            f"{rate:g}) or lower weights of losses"
        )

    def _is_changed(self) -> bool:
        return self._usual_recipe != self.recipe.to_toml().encode()

    def _autocast(self) -> Any:
        wanted = self.recipe.precision == "bf16"
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16, enabled=wanted)

    # --- data ------------------------------------------------------------------------------

    def _open_batches(self, dataset: Dataset) -> Batches:
        recipe, settings = self.recipe, self.settings
        versions = tuple(recipe.lr_versions) or None
        return load_batches(
            dataset,
            BatchSpec(
                batch_size=recipe.batch,
                seed=recipe.seed,
                lr=() if recipe.fresh else versions,
                window_chunks=recipe.window_chunks,
            ),
            first=self.state.step * recipe.accumulate,
            stop=recipe.steps * recipe.accumulate,
            workers=settings.workers,
            memory=settings.memory,
            device=str(self.processes.device),
            rank=self.processes.rank,
            world_size=self.processes.count,
        )

    def _next_pair(self) -> tuple[Tensor, Tensor]:
        before = time.perf_counter()
        batch = next(self.batches)
        self.state.waited_s += time.perf_counter() - before
        hr = self._unit_range(batch.hr)
        return (self._degraded(hr, batch) if self.recipe.fresh else self._unit_range(batch.lr)), hr

    def _degraded(self, hr: Tensor, batch: Batch) -> Tensor:
        chains = self.recipe.fresh
        # One chain a step, drawn from what the batch is drawn from.
        chain = chains[int(batch.seeds[0]) % len(chains)]
        return degrade_batch(hr, batch.seeds.tolist(), chain, scale=self.recipe.scale)

    def _unit_range(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.processes.device, non_blocking=True)
        return moved.to(memory_format=torch.channels_last).float() / 255

    # --- what is written -------------------------------------------------------------------

    def _validate(self) -> TrainProgress:
        state, recipe = self.state, self.recipe
        found, sr = None, None
        if self.judge is not None:
            sr = self.judge.enlarged(state.average, device=self.processes.device)
            found = self.judge.score(sr, device=self.processes.device)
        merit = self._merit(found)
        improved = merit > state.best or found is None
        if self.processes.leads:
            if self._is_sound():
                self._write_models(best=improved)
            else:
                logger.warning("step %d is far off what was before: it is not kept", state.step)
            self.watch.record(self._row(found) | self._held_out())
            if self.judge is not None and sr is not None:
                self.watch.show(self.judge, sr, state.step)
        self._mind_plateau(improved=improved)
        state.best = max(state.best, merit)
        loss = self.state.means.row().get("loss")
        state.means = Means()
        return TrainProgress(
            step=state.step,
            steps=recipe.steps,
            loss=math.nan if loss is None else loss,
            validation=found,
            waiting_share=state.waited_s / max(state.seconds, 1e-9),
        )

    def _merit(self, found: Validation | None) -> float:
        """Return what ranks checkpoints: PSNR, or LPIPS in a GAN stage, which PSNR does not."""
        if found is None:
            return -math.inf
        if found.lpips is not None and not self.recipe.is_alone(self.state.step - 1):
            return -found.lpips
        return found.psnr_y

    def _mind_plateau(self, *, improved: bool) -> None:
        # All processes must take one rate, but only the first one validates.
        worse = self.processes.mean(float(not improved) if self.processes.leads else 0.0) > 0
        self.state.worse = self.state.worse + 1 if worse else 0
        if self.recipe.schedule == "plateau" and self.state.worse > self.recipe.patience:
            self.state.fallen *= self.recipe.gamma
            self.state.worse = 0

    def _row(self, found: Validation | None) -> dict[str, float | str | None]:
        state, recipe = self.state, self.recipe
        alone = recipe.is_alone(state.step - 1)
        return {
            **self.state.means.row(),
            "step": str(state.step),
            "stage": "alone" if alone else "gan",
            "learning_rate": recipe.rate(state.step - 1, fallen=state.fallen),
            "psnr_y": found.psnr_y if found else None,
            "ssim_y": found.ssim_y if found else None,
            "lpips": found.lpips if found else None,
            "seconds": state.seconds,
            "waiting_s": state.waited_s,
        }

    @torch.no_grad()
    def _held_out(self) -> dict[str, float | None]:
        """Return the losses on all validation patches, and the scores of bicubic enlargement.

        They are what a step would count: of the output as it is, by the same terms, against the
        same targets, in the same precision; but of the averaged weights.
        """
        if self.judge is None or self._baseline is None:
            return {}
        step = self.state.step - 1
        judge = None if self.recipe.is_alone(step) else self._unwrapped_judge()
        sums: dict[str, float] = defaultdict(float)
        for lr, hr in self.judge.pairs(device=self.processes.device):
            with self._autocast():
                sr = self.state.average(lr).float()
            target = hr if self._teacher is None else self._taught(self._teacher, lr)
            with self._autocast():
                found = self.objective.held_out(sr, target, step=step, judge=judge)
            for name, value in found.items():
                sums[name] += value * len(hr) / len(self.judge.hr)
        return sums | {f"bicubic_{k}": v for k, v in asdict(self._baseline).items()}

    def _content(self) -> bytes:
        spec = model_spec(self.recipe, data=self.settings.data)
        return checkpoint.to_bytes(spec, self.state.average.state_dict())

    def _write_models(self, *, best: bool) -> None:
        content = self._content()
        write_atomic(self.settings.out_dir / LAST, content)
        if best:
            write_atomic(self.settings.out_dir / BEST, content)

    def _write_checkpoint(self) -> None:
        if self.state.skipped or not self._is_sound():
            # None that is good makes room for it.
            return
        folder = self.settings.out_dir / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{self.state.step:08}.safetensors", self._content())
        numbered = sorted(p for p in folder.iterdir() if re.fullmatch(_NUMBERED, p.name))
        # Those of later steps are of a training before this one.
        own = [path for path in numbered if int(path.stem) <= self.state.step]
        for old in own[: -self.recipe.keep]:
            old.unlink()

    def _open_judge(self, dataset: Dataset, files: FeatureFiles) -> Judge | None:
        """Return what validates, by the same measures from the first step to the last."""
        judge = Judge.of(dataset, self.recipe, files, device=self.processes.device)
        if judge is None:
            if self.recipe.validation_patches:
                logger.warning(
                    "nothing is validated, so the last model is the best one: no patch is held out "
                    "for it; prepare with split = { validation = 0.1 }, or more pictures"
                )
            return None
        if not self.settings.resume:
            self.state.lpips = judge.lpips is not None
        elif self.state.lpips and judge.lpips is None:
            raise UsageError(
                "the training was begun with LPIPS, by which its best is chosen in a GAN stage; "
                "name the features of AlexNet again with --features"
            )
        elif judge.lpips is not None and not self.state.lpips:
            logger.warning("LPIPS is left out, as the training was begun without it")
            return replace(judge, lpips=None)
        return judge

    def _begin_or_resume(self) -> None:
        out = self.settings.out_dir
        check_folder(out, resume=self.settings.resume)
        if self.settings.resume:
            self.state.restore(out / STATE)
            if self.state.step > self.recipe.steps:
                raise UsageError(
                    f"steps is {self.recipe.steps}, but {out} has made {self.state.step}; resume "
                    "with at least as many"
                )
            self._mind_recipe(out / RECIPE)
        if self.processes.leads:
            out.mkdir(parents=True, exist_ok=True)
            remove_partials(out)
            write_atomic(out / RECIPE, self.recipe.to_toml().encode())

    def _mind_recipe(self, path: Path) -> None:
        """Remember the recipe of the state that it goes on from, and what its losses tell now."""
        if not path.is_file():
            return
        self._usual_recipe = path.read_bytes()
        before = load_recipe(str(path))
        if (before.losses, before.pretrain_losses) != (
            self.recipe.losses,
            self.recipe.pretrain_losses,
        ):
            self.state.guard = Guard()

    def _tell_what_was_taken(self) -> None:
        taken, of = self.state.taken, len(self.state.generator.network.state_dict())
        if taken is not None and taken < of and self.processes.leads:
            logger.warning(
                "%d of %d tensors begin as those of %s, the others anew",
                taken,
                of,
                self.recipe.initial,
            )


def check_folder(out_dir: Path, *, resume: bool) -> None:
    """Make sure that a training may begin, or go on, in a folder.

    Raises:
        UsageError: if it holds one that is not to be resumed, or none that could be.
    """
    if not is_utf8(str(out_dir)):
        raise UsageError(f"{str(out_dir)!r} is no UTF-8; name another folder")
    if (out_dir / STATE).exists():
        if resume:
            return
        raise UsageError(f"{out_dir} holds a training already; add --resume or name another folder")
    model = next((out_dir / name for name in (LAST, BEST) if (out_dir / name).exists()), None)
    if model is not None:
        raise UsageError(
            f"{out_dir} holds a training whose {STATE} is gone, so that it cannot go on; name "
            f"another folder, with --set initial={model} to begin with what it learned"
        )
    if resume:
        raise UsageError(
            f"{out_dir} cannot be resumed: it holds no {STATE}; is --out right? Without --resume a "
            "training begins there"
        )


def check_networks(recipe: TrainRecipe, *, hr_px: tuple[int, int]) -> None:
    """Make sure that the networks of a recipe can be had, before anything is begun.

    Raises:
        RecipeError: if it names networks, arguments or weights that cannot be, or that do not
            take HR patches of ``(rows, columns)``.
        UnknownModelError: if there is no such teacher.
    """
    device = torch.device("cpu")
    TrainState.begin(recipe, hr_px=hr_px, device=device)
    if recipe.teacher:
        _teacher(recipe, device)


def _teacher(recipe: TrainRecipe, device: torch.device) -> nn.Module:
    """Return the network that is learned from.

    Raises:
        UnknownModelError: if there is no such model.
        RecipeError: if it enlarges otherwise than what is trained.
    """
    model = load_model(recipe.teacher)
    if (model.spec.scale, model.spec.channels) != (recipe.scale, recipe.channels):
        raise RecipeError(
            f"teacher {recipe.teacher} has scale {model.spec.scale} and {model.spec.channels} "
            f"channels, and recipe {recipe.name} scale {recipe.scale} and {recipe.channels}; name "
            "another one, or leave teacher out"
        )
    network = folded(model.network).requires_grad_(False)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _fitted(recipe: TrainRecipe, patches: int, *, processes: Processes) -> TrainRecipe:
    """Return the recipe for so many patches; it is told where they are fewer than its batch."""
    fitted = recipe.of_patches(patches, processes=processes.count)
    if fitted.batch < recipe.batch and processes.leads:
        logger.warning(
            "batch is %d instead of %d: there are %d patches to train on",
            fitted.batch,
            recipe.batch,
            patches,
        )
    return fitted


def _check_fits(dataset: Dataset, recipe: TrainRecipe) -> None:
    spec = dataset.spec
    if (spec.scale, spec.channels) != (recipe.scale, recipe.channels):
        raise RecipeError(
            f"{dataset.path} has scale {spec.scale} and {spec.channels} channels, and recipe "
            f"{recipe.name} scale {recipe.scale} and {recipe.channels}; prepare a dataset by it"
        )
    unknown = [name for name in recipe.lr_versions if name not in spec.degradations]
    if unknown:
        raise RecipeError(
            f"lr_versions has {unknown[0]!r}, but {dataset.path} has {', '.join(spec.degradations)}"
        )
    if recipe.validation_patches and len(dataset.rows(VALIDATED)):
        if min(spec.hr_px) <= 2 * recipe.scale:
            raise RecipeError(
                f"patches of {dataset.path} are {spec.hr_px[0]}x{spec.hr_px[1]} px, of which a "
                f"border of {recipe.scale} is not scored; prepare larger ones"
            )
    elif recipe.schedule == "plateau":
        raise RecipeError(
            "schedule is 'plateau', but nothing is validated by which the rate could fall; prepare "
            "a validation split, or take one of constant, linear, step and cosine"
        )
    if not len(dataset.rows("train")):
        held = sum(len(dataset.rows(name)) for name in HELD_OUT)
        raise SourceError(
            f"{dataset.path} holds no patch to train on: all {held} are held out for validation "
            "and test; prepare more pictures, or hold out fewer by the key split"
            if held
            else f"{dataset.path} holds no patch to train on; prepare it with pictures"
        )
