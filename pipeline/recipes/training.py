"""How a system is trained: the keys of a recipe outside of its table ``[prepare]``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.degradation.chain import Degradation
from pipeline.errors import RecipeError
from pipeline.recipes.files import PREPARE, read_recipe
from pipeline.tables import checked, nearest, require_least, require_one_of, toml_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

LOSSES = ("l1", "mse", "content", "perceptual", "adversarial")
"""Losses of a generator: of pixels, of VGG19's and VGG16's features, and of a discriminator."""

FEATURE_LOSSES = ("content", "perceptual")
"""Those that need a network's features, which come from a file of the user's."""

SCHEDULES = ("constant", "linear", "step", "cosine", "plateau")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Everything that decides the weights that training ends with, beside the patches."""

    name: str
    architecture: str
    """The generator: a name of `models.registry.BUILDERS`."""
    scale: int
    channels: int = 3
    arguments: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    licence: str = "unknown: say it in the recipe, or with --set licence=..."
    """Of the weights; whoever trains decides, within what the pictures' licences allow."""
    initial: str = ""
    """A model whose weights the generator begins with, wherever names and shapes are the same."""
    discriminator: str = ""
    """A name of `models.registry.DISCRIMINATORS`; "" trains without one."""
    discriminator_arguments: dict[str, Any] = field(default_factory=dict)

    teacher: str = ""
    """A model whose output is learned instead of HR (arXiv 1503.02531); validation is by HR."""

    losses: dict[str, float] = field(default_factory=lambda: {"l1": 1.0})
    """Weights of the generator's losses, by their names in `LOSSES`."""
    pretrain_share: float = 0.0
    """Share of the steps that the generator trains alone first."""
    pretrain_losses: dict[str, float] = field(default_factory=lambda: {"l1": 1.0})

    lr_versions: list[str] = field(default_factory=list)
    """LR versions of the dataset that are trained on; none stands for all of them."""
    fresh_degradations: list[dict[str, Any]] = field(default_factory=list)
    """Degradations that make LR anew in every step, on the device; then no LR version is read."""
    batch: int = 16
    """Patches of a batch, in each of the processes that share a training."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    window_chunks: int = 16
    """How many chunks of the dataset patches are mixed among."""

    steps: int = 24_000
    epochs: int = 0
    """Passes over the patches that make up the steps; 0 stands for `steps` as they are."""
    optimiser: str = "adam"
    """adam, or muon for the kernels inside the generator and adam for the rest of it."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    learning_rate: float = 1e-4
    pretrain_rate: float = 0.0
    """Learning rate of the steps alone; 0 stands for `learning_rate`."""
    discriminator_rate: float = 0.0
    """Learning rate of the discriminator; 0 stands for `learning_rate`."""
    schedule: str = "constant"
    """How the rate falls: one of `SCHEDULES`, after the steps alone."""
    warmup_share: float = 0.0
    """Share of the steps over which the rate rises from zero first."""
    decay_share: float = 0.5
    """linear: over the last share of the steps it falls to zero."""
    milestones: list[float] = field(default_factory=lambda: [0.5])
    """step: shares of the steps at which it is multiplied by `gamma`."""
    gamma: float = 0.5
    patience: int = 5
    """plateau: after so many validations without a better one it is multiplied by `gamma`."""
    clip_norm: float = 0.0
    """The longest that a gradient may be; 0 does not clip."""
    ema: float = 0.999
    """Share that the averaged weights keep in each step."""
    seed: int = 1
    precision: str = "auto"
    """fp32, bf16, or auto: bf16 where the device computes in it, as a training begins."""
    compile: bool = False

    validation_patches: int = 128
    validate_every: int = 0
    """Steps from one validation to the next; 0 stands for a twentieth of all, 10 to 1,000."""
    checkpoint_every: int = 0
    """Steps from one checkpoint that is kept to the next; 0 stands for every validation.

    What resuming needs is written then too, where this is given, and every minute anyway.
    """
    keep: int = 3
    """How many of the last checkpoints stay."""

    NEEDS: ClassVar[tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...]] = (
        (("decay_share",), "schedule", ("linear",)),
        (("milestones",), "schedule", ("step",)),
        (("gamma",), "schedule", ("step", "plateau")),
        (("patience",), "schedule", ("plateau",)),
        (("discriminator_arguments", "discriminator_rate"), "discriminator", ()),
        (("pretrain_losses", "pretrain_rate"), "pretrain_share", ()),
    )
    """Keys that only count where another key has one of some values, or (of none) any but 0."""

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
        if self.seed >= 2**63:
            raise RecipeError(f"seed is {self.seed}, expected less than 2**63")
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
            raise RecipeError("pretrain_losses has 'adversarial', but then the generator is alone")
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
                "or mse alone: a teacher's pictures are no originals to judge looks by"
            )

    @property
    def fresh_chains(self) -> tuple[Degradation, ...]:
        """Return the degradations that make LR anew in every step."""
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
"""Of rates and of weights of losses: what is larger overflows in fp32 sooner than it trains."""

_COUNTS = (
    "scale", "channels", "batch", "accumulate", "window_chunks", "steps", "keep",
)  # fmt: skip
_AMOUNTS = (
    "epochs", "validation_patches", "seed", "pretrain_rate", "discriminator_rate",
    "clip_norm", "patience", "validate_every", "checkpoint_every",
)  # fmt: skip


def _choose_length(values: dict[str, Any], settings: Iterable[str]) -> None:
    """Let `steps` that are set go before the `epochs` of a file.

    Raises:
        RecipeError: if both are set, or both stand in the file, where nothing is set.
    """
    told = dict(setting.partition("=")[::2] for setting in settings)
    if "steps" in told and told.get("epochs", "0").strip() != "0":
        raise RecipeError("steps and epochs are both set, expected one: epochs make the steps")
    if not {"steps", "epochs"} & told.keys() and "steps" in values and values.get("epochs"):
        raise RecipeError(
            f"the recipe has steps = {values['steps']} and epochs = {values['epochs']}, expected "
            "one: epochs make the steps; leave one out, or say it with --set"
        )
    if "steps" in told:
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
    told = {setting.partition("=")[0] for setting in settings}
    lacking = [f.name for f in fields(TrainRecipe) if f.name not in values.keys() | told]
    if whole and lacking:
        raise RecipeError(
            f"{name_or_file} lacks {', '.join(lacking)}, as if it was cut off; write it again, or "
            f"add --set {lacking[0]}=VALUE and so on"
        )
    _choose_length(values, settings)
    named = told | values.keys()
    if PREPARE in values and "architecture" not in named:
        raise RecipeError(
            f"recipe {name_or_file} only says how to prepare a dataset, expected architecture and "
            "what else training takes; use it with `upres prepare`, or name another recipe"
        )
    values.pop(PREPARE, None)
    return checked(TrainRecipe, values, settings)
