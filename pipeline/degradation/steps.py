"""The steps that degradations are made of, as values that cannot be wrong.

Here belongs what each step's numbers mean, which are allowed, and how a patch draws them. What
the steps do to pixels is in `pipeline.degradation.apply` and `batch`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError
from pipeline.tables import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

NUMBERS = 8
"""Random numbers that each step owns, used or not: what one step draws never shifts another's."""

LARGEST_KERNEL_PX = 63


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number, drawn evenly from `low` to `high` for each patch; fixed where they are equal."""

    low: float
    high: float

    def at(self, shares: Floats) -> Floats:
        """Return ``low`` where the share is 0, towards ``high`` as it nears 1."""
        return self.low + (self.high - self.low) * shares

    def odd_at(self, shares: Floats) -> Floats:
        """Return one of the odd whole numbers from ``low`` to ``high``, each as likely."""
        return self.low + 2 * np.floor(shares * ((self.high - self.low) / 2 + 1))

    @property
    def is_fixed(self) -> bool:
        """Whether every patch gets the same number."""
        return self.low == self.high


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that happens to a patch, with the probability `chance`.

    Lengths are in pixels of the patch as it is when the step comes, angles in degrees, counted
    from the columns' axis towards the rows'.
    """

    op: ClassVar[str]
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {}
    words: ClassVar[Mapping[str, Sequence[str]]] = {}

    chance: float = 1.0

    def __post_init__(self) -> None:
        for name, (low, high) in {"chance": (0.0, 1.0), **self.bounds}.items():
            value = getattr(self, name)
            ends = (value.low, value.high) if isinstance(value, Uniform) else (value, value)
            if value is not None and not low <= ends[0] <= ends[1] <= high:
                met = list(ends) if isinstance(value, Uniform) and not value.is_fixed else ends[0]
                raise RecipeError(f"{self.op}: {name} is {met}, expected {low:g} to {high:g}")
        for name, known in self.words.items():
            value = getattr(self, name)
            for word in value if isinstance(value, tuple) else (value,):
                check_known(word, known, f"{self.op} has no {name} {word!r}")

    def draw(self, numbers: Floats) -> dict[str, Floats]:
        """Return parameter -> its value for each patch, from ``(n, NUMBERS)`` even in [0, 1).

        Number 0 decides whether the step happens, and the fields in their order take the others.
        """
        values = {}
        for slot, name in enumerate(self.bounds, start=1):
            value = getattr(self, name)
            if isinstance(value, Uniform):
                at = value.odd_at if name == "size" else value.at
                values[name] = at(numbers[:, slot])
            elif value is not None:
                values[name] = np.where(numbers[:, slot] < value, 1.0, 0.0)
        return values


def _check_odd(step: Step, size: Uniform) -> None:
    if size.low % 2 != 1 or size.high % 2 != 1:
        met = size.low if size.is_fixed else [size.low, size.high]
        raise RecipeError(f"{step.op}: size is {met}, expected odd whole numbers such as [7, 21]")


@dataclass(frozen=True, kw_only=True)
class Resize(Step):
    """Resize to `factor` times the size of the ``"target"`` (the LR patch) or the ``"current"``.

    The kernel is drawn from those named. Where an axis gets shorter, kernels are stretched
    (antialiasing), and with ``antialias = false`` the box alone is: it then is the mean of an area.
    """

    op: ClassVar[str] = "resize"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"factor": (0.01, 16)}
    words: ClassVar[Mapping[str, Sequence[str]]] = {
        "of": ("target", "current"),
        "kernel": ("bicubic", "bilinear", "box", "lanczos"),
    }

    factor: Uniform = Uniform(1.0, 1.0)
    of: str = "target"
    kernel: tuple[str, ...] = ("bicubic",)
    antialias: bool = True

    @property
    def is_reduction(self) -> bool:
        """Whether the step always is the antialiased reduction to the target, by one kernel."""
        to_target = self.of == "target" and self.factor == Uniform(1, 1)
        alike = self.chance == 1 and len(self.kernel) == 1
        return to_target and alike and self.stretches(self.kernel[0])

    def draw(self, numbers: Floats) -> dict[str, Floats]:
        """Return the factor, and the kernel as its place in the list."""
        kernel = np.floor(numbers[:, 2] * len(self.kernel))
        return {"factor": self.factor.at(numbers[:, 1]), "kernel": kernel}

    def size_of(
        self, *, current: tuple[int, int], target: tuple[int, int], factor: float
    ) -> tuple[int, int]:
        """Return the (rows, columns) that the step leaves, halves rounded up, at least one."""
        rows, cols = target if self.of == "target" else current
        return max(1, math.floor(rows * factor + 0.5)), max(1, math.floor(cols * factor + 0.5))

    def stretches(self, kernel: str) -> bool:
        """Return whether the kernel is widened where an axis gets shorter."""
        return self.antialias or kernel == "box"


@dataclass(frozen=True, kw_only=True)
class Blur(Step):
    """Blur with a kernel of ``size x size``, of the distance q in units of sigma.

    ``gaussian`` is ``exp(-q**2 / 2)``, ``generalized`` ``exp(-q**(2 * beta) / 2)`` and ``plateau``
    ``1 / (1 + q**(2 * beta))``. With `sigma_y` the kernel is an ellipse, `sigma` along `angle`.
    """

    op: ClassVar[str] = "blur"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "sigma": (0.05, 30),
        "sigma_y": (0.05, 30),
        "angle": (-360, 360),
        "beta": (0.1, 16),
        "size": (1, LARGEST_KERNEL_PX),
    }
    words: ClassVar[Mapping[str, Sequence[str]]] = {"kind": ("gaussian", "generalized", "plateau")}

    sigma: Uniform
    kind: str = "gaussian"
    sigma_y: Uniform | None = None
    angle: Uniform = Uniform(0.0, 0.0)
    beta: Uniform = Uniform(1.0, 1.0)
    size: Uniform = Uniform(21.0, 21.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_odd(self, self.size)


@dataclass(frozen=True, kw_only=True)
class Motion(Step):
    """Blur along a straight line of `length` pixels."""

    op: ClassVar[str] = "motion"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "length": (0, LARGEST_KERNEL_PX - 3),
        "angle": (-360, 360),
    }

    length: Uniform
    angle: Uniform = Uniform(0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Sinc(Step):
    """Cut all frequencies beyond `cutoff` (1 is Nyquist's), in a circle: ringing and overshoot."""

    op: ClassVar[str] = "sinc"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "cutoff": (0.02, 1),
        "size": (1, LARGEST_KERNEL_PX),
    }

    cutoff: Uniform
    size: Uniform = Uniform(21.0, 21.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_odd(self, self.size)


@dataclass(frozen=True, kw_only=True)
class Noise(Step):
    """Add normal noise of `sigma` grey levels, and clip to 0..255.

    `grey` is the chance that it is the same in all channels, instead of a noise for each.
    """

    op: ClassVar[str] = "noise"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"sigma": (0, 255), "grey": (0, 1)}

    sigma: Uniform
    grey: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Poisson(Step):
    """Add the noise of counted light, and clip to 0..255.

    Its variance is ``scale**2`` times the level: at scale 1 each of the 255 levels is one photon.
    `grey` is the chance that it is the noise of the picture's luma, the same in all channels.
    """

    op: ClassVar[str] = "poisson"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"scale": (0, 16), "grey": (0, 1)}

    scale: Uniform
    grey: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Jpeg(Step):
    """Compress as JPEG with colours at half resolution, at `quality` rounded to a whole number."""

    op: ClassVar[str] = "jpeg"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"quality": (1, 100)}

    quality: Uniform


@dataclass(frozen=True, kw_only=True)
class Webp(Step):
    """Compress as lossy WebP, at `quality` rounded to a whole number."""

    op: ClassVar[str] = "webp"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"quality": (1, 100)}

    quality: Uniform


@dataclass(frozen=True, kw_only=True)
class Option:
    """Steps that a `Choice` may take, `weight` times as often as those of weight 1."""

    steps: tuple[Step, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise RecipeError(f"choice: weight is {self.weight}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Choice(Step):
    """Take the steps of one of the options; an option without steps leaves the patch alone."""

    op: ClassVar[str] = "choice"

    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.options:
            raise RecipeError("choice: options is empty, expected at least one")

    def pick(self, numbers: Floats) -> NDArray[np.intp]:
        """Return which option each patch takes."""
        weights = np.array([option.weight for option in self.options])
        ends = np.cumsum(weights)[:-1] / weights.sum()
        return np.searchsorted(ends, numbers[:, 1], side="right")


STEPS: dict[str, type[Step]] = {
    kind.op: kind for kind in (Resize, Blur, Motion, Sinc, Noise, Poisson, Jpeg, Webp, Choice)
}
"""What a table's `op` may be."""


def check_known(word: Any, known: Iterable[str], problem: str) -> None:
    """Refuse a word that is not among the known ones.

    Raises:
        RecipeError: that states the problem, and names the nearest right word.
    """
    if word not in list(known):
        raise RecipeError(f"{problem}; {nearest(str(word), known)}")
