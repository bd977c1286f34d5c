"""How a system is trained: the keys of a recipe outside of its table ``[prepare]``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.constants import PREPARE
from pipeline.degradation.chain import Degradation
from pipeline.errors import RecipeError
from pipeline.recipes.files import read_recipe
from pipeline.tables import (
    checked,
    nearest,
    require_least,
    require_one_of,
    require_seed,
    toml_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

LOSSES = ("l1", "mse", "content", "perceptual", "lpips_vgg", "adversarial")
"""Losses of a generator: of pixels, of VGG19's and VGG16's features, and of a discriminator."""

FEATURE_LOSSES = ("content", "perceptual", "lpips_vgg")
"""Those that need a network's features, which come from a file of the user's."""

SCHEDULES = ("constant", "linear", "step", "cosine", "plateau")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Everything that decides the weights that training ends with, beside the patches."""

    name: str
    """Name of the recipe, and of the model that it trains."""
    architecture: str
    """Network to train, the generator: see the table of networks."""
    scale: int
    """Factor from LR to HR; 1 for denoising and deblurring."""
    channels: int = 3
    """1 for grey pictures, 3 for RGB."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the network."""
    summary: str = ""
    """One line about the model, stored in its file."""
    licence: str = "unknown: say it in the recipe, or with --set licence=..."
    """Licence of the trained weights, within what those of the pictures allow."""
    initial: str = ""
    """Model, by name or file, whose tensors of equal name and shape are copied at the start.

    A model of the same architecture with fewer `features` is widened first: the training begins
    with what that one computes. Source: Chen et al., "Net2Net", 2016.
    """
    discriminator: str = ""
    """Network that judges pictures: see the table; without one, no GAN is trained."""
    discriminator_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the discriminator."""

    teacher: str = ""
    """Model whose output is learned instead of HR; validation still compares with HR.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """

    losses: dict[str, float] = field(default_factory=lambda: {"l1": 1.0})
    """Weights of `l1`, `mse`, `content`, `perceptual`, `lpips_vgg`, `adversarial`."""
    pretrain_share: float = 0.0
    """Share of the steps for pretraining, which leaves the discriminator out."""
    pretrain_losses: dict[str, float] = field(default_factory=lambda: {"l1": 1.0})
    """Weights of the losses during pretraining."""

    lr_versions: list[str] = field(default_factory=list)
    """LR versions of the dataset to train on; empty means all."""
    fresh_degradations: list[dict[str, Any]] = field(default_factory=list)
    """Degradations that compute LR in each step, instead of LR versions."""
    batch: int = 16
    """Patches per batch, in each process."""
    accumulate: int = 1
    """Batches per step; their gradients are averaged."""
    window_chunks: int = 16
    """Chunks of the dataset that are shuffled together."""

    steps: int = 24_000
    """Steps to train."""
    epochs: int = 0
    """Passes over the patches, instead of `steps`; 0 means that `steps` counts."""
    optimiser: str = "adam"
    """`adam`, or `muon` for the generator's inner kernels and Adam for the rest."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    """Decay rates of Adam's two running means."""
    learning_rate: float = 1e-4
    """Highest learning rate of the generator."""
    pretrain_rate: float = 0.0
    """Learning rate of pretraining; 0 means `learning_rate`."""
    discriminator_rate: float = 0.0
    """Highest learning rate of the discriminator; 0 means `learning_rate`."""
    schedule: str = "constant"
    """The rate after pretraining: `constant`, `linear`, `step`, `cosine` or `plateau`."""
    warmup_share: float = 0.0
    """Share of the steps over which the rate first rises from zero."""
    decay_share: float = 0.5
    """`linear`: last share of the steps, over which the rate falls to zero."""
    milestones: list[float] = field(default_factory=lambda: [0.5])
    """`step`: shares of the steps at which the rate is multiplied by `gamma`."""
    gamma: float = 0.5
    """`step` and `plateau`: factor by which the rate falls each time."""
    patience: int = 5
    """`plateau`: validations without improvement that are accepted before the rate falls."""
    clip_norm: float = 0.0
    """Largest norm of a gradient; 0 means no clipping."""
    ema: float = 0.999
    """Share of the averaged weights that each step keeps; these are validated and saved."""
    seed: int = 1
    """Seed of everything random."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: `bf16` where the device supports it."""
    compile: bool = False
    """Compile the generator with `torch.compile`."""

    validation_patches: int = 128
    """Most patches to validate with; 0 turns validation off."""
    validate_every: int = 0
    """Steps between validations; 0 means a twentieth of all, but 10 to 1,000."""
    checkpoint_every: int = 0
    """Steps between numbered checkpoints; 0 means one at each validation.

    What resuming needs is written then too, where this is given, and every minute anyway.
    """
    keep: int = 3
    """Numbered checkpoints to keep."""

    NEEDS: ClassVar[tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...]] = (
        (("decay_share",), "schedule", ("linear",)),
        (("milestones",), "schedule", ("step",)),
        (("gamma",), "schedule", ("step", "plateau")),
        (("patience",), "schedule", ("plateau",)),
        (("discriminator_arguments", "discriminator_rate"), "discriminator", ()),
        (("pretrain_losses", "pretrain_rate"), "pretrain_share", ()),
    )
    """Keys, and the key with the values that they need to count; no values: any but 0 or empty."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            require_least(self, name, 1)
        for name in _AMOUNTS:
            require_least(self, name, 0)
        if self.steps > _MOST_STEPS:
            raise RecipeError(f"steps is {self.steps}, expected at most {_MOST_STEPS}")
        for name in ("pretrain_share", "warmup_share", "decay_share", "ema", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        require_seed(self.seed)
        if not self.learning_rate > 0:
            raise RecipeError(f"learning_rate is {self.learning_rate}, expected more than 0")
        for name in ("learning_rate", "pretrain_rate", "discriminator_rate"):
            if getattr(self, name) > _LARGEST:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected at most {_LARGEST:g}")
        require_one_of(self, "precision", ("auto", "fp32", "bf16"))
        require_one_of(self, "optimiser", ("adam", "muon"))
        require_one_of(self, "schedule", SCHEDULES)
        for name in ("betas", "milestones"):
            if any(type(v) not in (int, float) or not 0 <= v < 1 for v in getattr(self, name)):
                raise RecipeError(
                    f"{name} is {getattr(self, name)}, expected numbers from 0 to below 1"
                )
        if len(self.betas) != 2:
            raise RecipeError(f"betas is {self.betas}, expected two numbers")
        self._check_losses()
        _ = self.fresh_chains

    def _check_losses(self) -> None:
        for key in ("losses", "pretrain_losses"):
            weights = getattr(self, key)
            for name, weight in weights.items():
                if name not in LOSSES:
                    raise RecipeError(f"{key} has {name!r}; {nearest(name, LOSSES)}")
                if type(weight) not in (int, float) or not 0 < weight <= _LARGEST:
                    raise RecipeError(
                        f"{key}.{name} is {weight!r}, expected more than 0, at most {_LARGEST:g}"
                    )
            if not weights:
                raise RecipeError(f"{key} is empty, expected one of {', '.join(LOSSES)}")
        if "adversarial" in self.pretrain_losses:
            raise RecipeError(
                "pretrain_losses has 'adversarial', but there is no discriminator then"
            )
        if ("adversarial" in self.losses) != bool(self.discriminator):
            raise RecipeError(
                f"losses are {', '.join(self.losses)} and discriminator is "
                f"{self.discriminator!r}, expected a discriminator and an adversarial loss, or none"
            )
        if self.pretrain_share and not self.discriminator:
            raise RecipeError(
                f"pretrain_share is {self.pretrain_share}, expected 0 without a discriminator"
            )
        if self.teacher and (self.discriminator or {*self.losses} & {*FEATURE_LOSSES}):
            raise RecipeError(
                f"teacher is {self.teacher!r} and losses are {', '.join(self.losses)}, expected l1 "
                "or mse alone: a teacher's pictures are not originals to judge looks by"
            )

    @property
    def fresh_chains(self) -> tuple[Degradation, ...]:
        """Return the degradations that compute LR in every step."""
        tables = self.fresh_degradations
        return tuple(Degradation.from_table(table, scale=self.scale) for table in tables)

    @property
    def pretrain_steps(self) -> int:
        """Return how many steps of pretraining there are, without the discriminator."""
        return round(self.steps * self.pretrain_share)

    @property
    def validation_interval(self) -> int:
        """Return the steps from one validation to the next."""
        return self.validate_every or min(1_000, max(10, self.steps // 20))

    @property
    def checkpoint_interval(self) -> int:
        """Return the steps from one checkpoint that is kept to the next."""
        return self.checkpoint_every or self.validation_interval

    def of_patches(self, patches: int, *, processes: int) -> TrainRecipe:
        """Return the recipe for so many patches in so many processes: with its steps.

        Epochs become steps, and a batch is not larger than all patches together.
        """
        batch = min(self.batch, max(1, patches // processes))
        if not self.epochs:
            return replace(self, batch=batch)
        together = batch * self.accumulate * processes
        steps = max(1, math.ceil(self.epochs * patches / together))
        return replace(self, batch=batch, epochs=0, steps=steps)

    def is_adversarial(self, step: int) -> bool:
        """Return whether the generator trains with the discriminator in a step."""
        return bool(self.discriminator) and step >= self.pretrain_steps

    def losses_at(self, step: int) -> dict[str, float]:
        """Return the weights of the losses of a step."""
        return self.pretrain_losses if step < self.pretrain_steps else self.losses

    def rate(self, step: int, *, fallen: float = 1.0) -> float:
        """Return the generator's learning rate; `fallen` is what a plateau has left of it."""
        warm = min(1.0, (step + 1) / max(1.0, self.steps * self.warmup_share))
        if step < self.pretrain_steps:
            return (self.pretrain_rate or self.learning_rate) * warm
        return self.learning_rate * warm * self._scheduled(step) * fallen

    def _scheduled(self, step: int) -> float:
        steps, at = self.steps - self.pretrain_steps, step - self.pretrain_steps
        if self.schedule == "linear":
            return min(1.0, (steps - at) / max(1.0, steps * self.decay_share))
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * at / steps)) / 2
        if self.schedule == "step":
            return float(self.gamma ** sum(at >= share * steps for share in self.milestones))
        return 1.0

    def to_toml(self) -> str:
        """Return the recipe as a file that `load_recipe` reads back unchanged."""
        return toml_lines(asdict(self))


_MOST_STEPS = 10**9
_LARGEST = 1e6
_SHOWN_KEYS = 5
"""Of rates and of weights of losses: what is larger overflows in fp32 sooner than it trains."""

_COUNTS = (
    "scale", "channels", "batch", "accumulate", "window_chunks", "steps", "keep",
)  # fmt: skip
_AMOUNTS = (
    "epochs", "validation_patches", "pretrain_rate", "discriminator_rate",
    "clip_norm", "patience", "validate_every", "checkpoint_every",
)  # fmt: skip


def _choose_length(values: dict[str, Any], settings: Iterable[str]) -> None:
    """Let `steps` that are set go before the `epochs` of a file.

    Raises:
        RecipeError: if both are set, or both stand in the file, where nothing is set.
    """
    chosen = dict(setting.partition("=")[::2] for setting in settings)
    if "steps" in chosen and chosen.get("epochs", "0").strip() != "0":
        raise RecipeError("steps and epochs are both set, expected one: epochs make the steps")
    if not {"steps", "epochs"} & chosen.keys() and "steps" in values and values.get("epochs"):
        raise RecipeError(
            f"the recipe has steps = {values['steps']} and epochs = {values['epochs']}, expected "
            "one: epochs make the steps; leave one out, or say it with --set"
        )
    if "steps" in chosen:
        values.pop("epochs", None)


def load_recipe(
    name_or_file: str, *, settings: Iterable[str] = (), whole: bool = False
) -> TrainRecipe:
    """Return a recipe by name or file, with ``KEY=VALUE`` settings put over its values.

    A `whole` one, as a training writes it, has every key: a default may not stand in for one.

    Raises:
        RecipeError: for an unknown recipe or key (the message names the nearest right one), or a
            value that cannot be.
    """
    values = read_recipe(name_or_file)
    settings = list(settings)
    chosen = {setting.partition("=")[0] for setting in settings}
    lacking = [f.name for f in fields(TrainRecipe) if f.name not in values.keys() | chosen]
    if whole and lacking:
        more = len(lacking) - _SHOWN_KEYS
        shown = ", ".join(lacking[:_SHOWN_KEYS]) + (f" and {more} more keys" if more > 0 else "")
        raise RecipeError(
            f"{name_or_file} lacks {shown}, as if it was cut off; write it again, or "
            f"add --set {lacking[0]}=VALUE and so on"
        )
    _choose_length(values, settings)
    named = chosen | values.keys()
    if PREPARE in values and "architecture" not in named:
        raise RecipeError(
            f"recipe {name_or_file} only says how to prepare a dataset, expected architecture and "
            "what else training takes; use it with `upres prepare`, or name another recipe"
        )
    values.pop(PREPARE, None)
    return checked(TrainRecipe, values, settings)
