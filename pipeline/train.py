"""Training: from pictures to a checkpoint, resumable at any step.

A batch depends on the seed and the step alone, and everything else that the next step needs lies
in ``state.safetensors``, so a run that was killed goes on exactly where it was.
"""

from __future__ import annotations

import csv
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models import checkpoint, registry
from models.spec import ModelSpec
from pipeline.degrade import crop_to_multiple, degrade_bicubic
from pipeline.errors import (
    NotFiniteError,
    PictureError,
    RecipeError,
    SourceError,
    TrainingError,
    UsageError,
)
from pipeline.images import read_picture
from pipeline.inference import Inference
from pipeline.metrics import score_picture
from pipeline.muon import Muon
from pipeline.patches import PatchSampler, PicturePair
from pipeline.sources import list_source
from pipeline.storage.atomic import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.config import TrainRecipe

logger = logging.getLogger(__name__)

LAST, BEST, STATE, METRICS, RECIPE = (
    "last.safetensors",
    "best.safetensors",
    "state.safetensors",
    "metrics.csv",
    "recipe.toml",
)
_METRICS_HEADER = ("step", "loss", "learning_rate", "psnr_y", "ssim_y", "seconds", "waiting_s")
_PREFETCH = 8
_NOT_FINITE_IN_A_ROW = 10
_ADAM_SHARE = 0.1
"""Adam's rate as a share of Muon's; measured: 0.012 for Muon trains, 0.025 does not."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """What a validation found; `psnr_y` and `ssim_y` are means over the held-out pictures."""

    step: int
    steps: int
    loss: float
    psnr_y: float
    ssim_y: float
    waiting_share: float


@dataclass
class TrainState:
    """Everything that changes from step to step."""

    network: nn.Module
    average: nn.Module
    optimisers: list[torch.optim.Optimizer]
    step: int = 0
    best_psnr: float = -math.inf
    skipped: int = 0
    seconds: float = field(default=0.0)

    @classmethod
    def begin(cls, recipe: TrainRecipe) -> TrainState:
        """Return step 0: weights drawn with the recipe's seed."""
        torch.manual_seed(recipe.seed)
        try:
            network = registry.build(model_spec(recipe))
        except ValueError as error:
            raise RecipeError(str(error)) from error
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = registry.build(model_spec(recipe)).requires_grad_(False)
        average.load_state_dict(network.state_dict())
        return cls(network, average, _optimisers(network))

    def to_bytes(self) -> bytes:
        """Return the state as safetensors; nothing is pickled."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for n, optimiser in enumerate(self.optimisers):
            for p, values in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{n}.{p}.{k}": v for k, v in values.items()}
        numbers = (self.step, self.best_psnr, self.skipped, self.seconds)
        tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        return save({k: v.detach().contiguous() for k, v in tensors.items()})

    def restore(self, path: Path) -> None:
        """Become the state that `to_bytes` wrote.

        Raises:
            UsageError: if the file is missing, damaged, or of another network.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.network.load_state_dict(_below(tensors, "network."))
            self.average.load_state_dict(_below(tensors, "average."))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UsageError(
                f"{path} cannot be resumed ({error}); resume with the recipe it was trained by, "
                "or train into an empty folder"
            ) from error
        for n, optimiser in enumerate(self.optimisers):
            _restore_optimiser(optimiser, _below(tensors, f"optimiser.{n}."))
        step, self.best_psnr, skipped, self.seconds = tensors["numbers"].tolist()
        self.step, self.skipped = int(step), int(skipped)


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The pictures: those patches are cut from, and those held out to validate with."""

    pairs: Sequence[PicturePair]
    validation: Sequence[tuple[str, NDArray[Any], NDArray[Any]]]
    rejected: Sequence[tuple[str, str]]


def load_pictures(
    source: str, *, recipe: TrainRecipe, validation_source: str | None = None
) -> TrainingSet:
    """Decode all pictures of `source` and degrade them; hold some out for validation.

    Held out are the pictures of `validation_source`, or else `recipe.validation_pictures` of
    `source`, evenly spaced by name. Pictures that cannot be read or have another number of
    channels are left out with their reason.

    Raises:
        SourceError: if no picture is left to train on.
    """
    read, rejected = _read_pairs(source, recipe=recipe)
    if validation_source is None:
        held = set(np.linspace(0, len(read) - 1, recipe.validation_pictures + 2)[1:-1].astype(int))
        validation = [r for i, r in enumerate(read) if i in held]
        read = [r for i, r in enumerate(read) if i not in held]
    else:
        validation, more = _read_pairs(validation_source, recipe=recipe)
        names = {name for name, _, _ in validation}
        read = [r for r in read if r[0] not in names]
        rejected += more
    if not read:
        raise SourceError(f"{source} holds no picture to train on ({len(rejected)} were rejected)")
    pairs = [PicturePair.of(hr, lr) for _, hr, lr in read]
    return TrainingSet(pairs, validation, rejected)


def train(
    pictures: TrainingSet,
    *,
    recipe: TrainRecipe,
    out_dir: Path,
    resume: bool,
    tick: Callable[[int, int], None] = lambda _step, _of: None,
    report: Callable[[TrainProgress], None] = lambda _: None,
) -> Path:
    """Train to the end of `recipe`; return the checkpoint with the best validation.

    `tick` hears of every step, `report` of every validation.

    Leaves in `out_dir`: ``last.safetensors`` and ``best.safetensors`` (the averaged weights),
    ``state.safetensors`` (what resuming needs), ``metrics.csv``, ``recipe.toml``.

    Raises:
        UsageError: if `out_dir` holds a training and `resume` is not asked for.
        TrainingError: after ten steps in a row whose loss is not finite.
    """
    state = TrainState.begin(recipe)
    if resume:
        state.restore(out_dir / STATE)
    elif (out_dir / STATE).exists():
        raise UsageError(f"{out_dir} holds a training already; add --resume or name another folder")
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / RECIPE, recipe.to_toml().encode())
    sampler = PatchSampler(
        pictures.pairs,
        scale=recipe.scale,
        patch_hr_px=recipe.patch_hr_px,
        candidates=recipe.candidates,
        seed=recipe.seed,
    )
    _run_steps(state, sampler, pictures, recipe=recipe, out_dir=out_dir, tick=tick, report=report)
    return out_dir / BEST


def model_spec(recipe: TrainRecipe, *, pictures: int = 0) -> ModelSpec:
    """Return the spec of the model that `recipe` trains on so many pictures."""
    return ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        scale=recipe.scale,
        channels=recipe.channels,
        arguments=recipe.arguments,
        summary=recipe.summary,
        licence=recipe.licence,
        training_data=f"{pictures} pictures, {recipe.steps} steps, seed {recipe.seed}",
    )


def _run_steps(
    state: TrainState,
    sampler: PatchSampler,
    pictures: TrainingSet,
    *,
    recipe: TrainRecipe,
    out_dir: Path,
    tick: Callable[[int, int], None],
    report: Callable[[TrainProgress], None],
) -> None:
    forward: Callable[[Tensor], Tensor] = (
        torch.compile(state.network) if recipe.compile else state.network
    )
    began, waited, losses = time.perf_counter() - state.seconds, 0.0, []
    batches = _prefetched(sampler, recipe=recipe, first=state.step)
    while state.step < recipe.steps:
        before = time.perf_counter()
        lr, hr = next(batches)
        waited += time.perf_counter() - before
        losses.append(_step(state, forward, lr, hr, recipe=recipe))
        state.step += 1
        state.seconds = time.perf_counter() - began
        tick(state.step, recipe.steps)
        ended = state.step == recipe.steps
        if state.step % recipe.validate_every == 0 or ended:
            progress = _validate(
                state, pictures, recipe=recipe, loss=float(np.mean(losses)), waited=waited
            )
            trained_on = len(pictures.pairs)
            _record(out_dir, state, progress, recipe=recipe, pictures=trained_on, waited=waited)
            report(progress)
            losses = []
        if state.step % recipe.checkpoint_every == 0 or ended:
            write_atomic(out_dir / STATE, state.to_bytes())


def _step(
    state: TrainState,
    forward: Callable[[Tensor], Tensor],
    lr: NDArray[np.uint8],
    hr: NDArray[np.uint8],
    *,
    recipe: TrainRecipe,
) -> float:
    """Make one step of gradient descent; return the loss (L1, in 0..1)."""
    for optimiser in state.optimisers:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(state.step) * group["share"]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
        sr = forward(_unit_range(lr))
    loss = nn.functional.l1_loss(sr.float(), _unit_range(hr))
    if not bool(torch.isfinite(loss)):
        state.skipped += 1
        if state.skipped >= _NOT_FINITE_IN_A_ROW:
            raise TrainingError(
                f"the loss was not finite for {state.skipped} steps up to {state.step}; "
                "lower learning_rate and resume"
            )
        return math.nan
    state.skipped = 0
    loss.backward()
    for optimiser in state.optimisers:
        optimiser.step()
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.network.parameters(), strict=True):
            mean.lerp_(now, 1 - min(recipe.ema, (state.step + 1) / (state.step + 10)))
    return loss.item()


def _validate(
    state: TrainState, pictures: TrainingSet, *, recipe: TrainRecipe, loss: float, waited: float
) -> TrainProgress:
    engine = Inference.of(
        state.average, scale=recipe.scale, channels=recipe.channels, precision="fp32"
    )
    try:
        scores = [
            score_picture(engine.enlarge(lr), hr, border_px=recipe.scale, data_range=255)
            for _, hr, lr in pictures.validation
        ]
    except NotFiniteError as error:
        raise TrainingError(
            f"training diverged before step {state.step}: the network returns NaN or infinity; "
            "lower learning_rate and train again"
        ) from error
    return TrainProgress(
        step=state.step,
        steps=recipe.steps,
        loss=loss,
        psnr_y=float(np.mean([s.psnr_y for s in scores])) if scores else math.nan,
        ssim_y=float(np.mean([s.ssim_y for s in scores])) if scores else math.nan,
        waiting_share=waited / max(state.seconds, 1e-9),
    )


def _record(
    out_dir: Path,
    state: TrainState,
    progress: TrainProgress,
    *,
    recipe: TrainRecipe,
    pictures: int,
    waited: float,
) -> None:
    """Append to the metrics, and write the checkpoints: always the last, and the best so far."""
    spec = model_spec(recipe, pictures=pictures)
    content = checkpoint.to_bytes(spec, state.average.state_dict())
    write_atomic(out_dir / LAST, content)
    if math.isnan(progress.psnr_y) or progress.psnr_y > state.best_psnr:
        state.best_psnr = progress.psnr_y
        write_atomic(out_dir / BEST, content)
    fresh = not (out_dir / METRICS).exists()
    with (out_dir / METRICS).open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(_METRICS_HEADER)
        writer.writerow(
            (
                progress.step,
                f"{progress.loss:.6f}",
                f"{recipe.rate(progress.step - 1):.6g}",
                f"{progress.psnr_y:.4f}",
                f"{progress.ssim_y:.5f}",
                f"{state.seconds:.1f}",
                f"{waited:.1f}",
            )
        )


def _prefetched(
    sampler: PatchSampler, *, recipe: TrainRecipe, first: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield the batches from step `first` on, a few of them cut ahead by a thread."""
    queue: Queue[tuple[NDArray[np.uint8], NDArray[np.uint8]] | BaseException] = Queue(_PREFETCH)

    def cut() -> None:
        try:
            for step in range(first, recipe.steps):
                queue.put(sampler.batch(step, recipe.batch))
        except BaseException as error:
            queue.put(error)

    threading.Thread(target=cut, daemon=True, name="patches").start()
    for _ in range(first, recipe.steps):
        batch = queue.get()
        if isinstance(batch, BaseException):
            raise batch
        yield batch


def _optimisers(network: nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for the kernels inside the network and Adam for the rest.

    The first convolution maps colours, not features, and biases are no matrices: both are
    outside of what Muon is for.
    """
    kernels = [p for p in network.parameters() if p.ndim == 4][1:]
    chosen = {id(p) for p in kernels}
    others = [p for p in network.parameters() if id(p) not in chosen]
    muon = Muon(kernels, lr=1.0)
    adam = torch.optim.AdamW(others, lr=1.0, weight_decay=0.0)
    muon.param_groups[0]["share"] = 1.0
    adam.param_groups[0]["share"] = _ADAM_SHARE
    return [muon, adam]


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.partition(".")
        states.setdefault(int(parameter), {})[key] = tensor
    content = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": content["param_groups"]})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def _unit_range(pixels: NDArray[np.uint8]) -> Tensor:
    """Return uint8 pixels ``(n, c, h, w)`` as floats in 0..1, channels last in memory."""
    return torch.from_numpy(pixels).to(memory_format=torch.channels_last).float() / 255


def _read_pairs(
    source: str, *, recipe: TrainRecipe
) -> tuple[list[tuple[str, NDArray[Any], NDArray[Any]]], list[tuple[str, str]]]:
    read, rejected = [], []
    with ThreadPoolExecutor(2) as pool:
        for item, outcome in pool.map(lambda f: _read_pair(f, recipe=recipe), list_source(source)):
            if isinstance(outcome, str):
                logger.warning("left out %s: %s", item, outcome)
                rejected.append((item, outcome))
            else:
                read.append((item, *outcome))
    return read, rejected


def _read_pair(
    file: Any, *, recipe: TrainRecipe
) -> tuple[str, tuple[NDArray[Any], NDArray[Any]] | str]:
    try:
        pixels = read_picture(file.read(), name=file.item).pixels
    except (PictureError, SourceError) as error:
        return file.item, str(error)
    if pixels.dtype != np.uint8:
        return file.item, f"{pixels.dtype} pixels, training takes uint8"
    if pixels.shape[0] == 1 and recipe.channels == 3:
        pixels = np.repeat(pixels, 3, axis=0)
    if pixels.shape[0] != recipe.channels:
        return file.item, f"{pixels.shape[0]} channels, the recipe trains {recipe.channels}"
    if min(pixels.shape[1:]) < recipe.patch_hr_px:
        return file.item, f"smaller than a patch of {recipe.patch_hr_px} px"
    hr = np.ascontiguousarray(crop_to_multiple(pixels, recipe.scale))
    return file.item, (hr, degrade_bicubic(hr, recipe.scale))
