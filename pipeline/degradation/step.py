"""What every step of a degradation is: numbers that are checked, drawn, and applied to patches.

To add a step, write one file in `pipeline.degradation.steps` with a subclass of `Step`: its `op`,
its parameters, what it does to one patch exactly (`apply`), and to a batch on a GPU
(`apply_batch`). Recipes, messages and documents find it by its being there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.errors import RecipeError
from pipeline.tables import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from dataclasses import Field

    import torch

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Flags, Floats, Size, Values

NUMBERS = 8
"""Random numbers that each step owns, used or not: what one step draws never shifts another's."""

STEPS: dict[str, type[Link]] = {}
"""A table's `op` to its class. Import it from `pipeline.degradation.steps`, where all are there."""


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

    @property
    def plain(self) -> float | list[float]:
        """Return it as a recipe's table has it: one number, or the lowest and the highest."""
        return self.low if self.is_fixed else [self.low, self.high]


_RANGE, _ODD, _WORDS = "range", "odd", "words"


def within(low: float, high: float) -> dict[str, Any]:
    """Return the metadata of a field whose numbers are from `low` to `high`."""
    return {_RANGE: (low, high)}


def odd_within(low: float, high: float) -> dict[str, Any]:
    """Return the metadata of a field whose numbers are odd and whole, from `low` to `high`."""
    return {_RANGE: (low, high), _ODD: True}


def one_of(*words: str) -> dict[str, Any]:
    """Return the metadata of a field that holds one of some words, or several of them."""
    return {_WORDS: words}


def range_of(part: Field[Any]) -> str | None:
    """Return in words which numbers a field takes; None if any, or if it takes none."""
    if _RANGE not in part.metadata:
        return None
    low, high = part.metadata[_RANGE]
    return f"{'odd, ' if _ODD in part.metadata else ''}{low:g} to {high:g}"


def words_of(part: Field[Any]) -> tuple[str, ...] | None:
    """Return the words that a field takes; None if it takes any, or none."""
    return part.metadata.get(_WORDS)


@dataclass(frozen=True, kw_only=True)
class Link(ABC):
    """One place in a chain: a `Step`, or something that decides which steps are taken.

    Lengths are in pixels of the patch as it is when the step comes, angles in degrees, counted
    from the columns' axis towards the rows'. A subclass that has an `op` is known by it.
    """

    op: ClassVar[str]

    chance: float = field(default=1.0, metadata=within(0, 1))
    """Probability that the step happens to a patch."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "op" in cls.__dict__ and STEPS.setdefault(cls.op, cls) is not cls:
            raise TypeError(f"op {cls.op!r} of {cls.__name__} is {STEPS[cls.op].__name__}'s")

    def __post_init__(self) -> None:
        for check in (self._check_range, self._check_words, self._check_odd):
            for part in fields(self):
                check(part.name, getattr(self, part.name), part.metadata)

    def _check_range(self, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
        if _RANGE not in metadata or value is None:
            return
        low, high = metadata[_RANGE]
        ends = (value.low, value.high) if isinstance(value, Uniform) else (value, value)
        if not low <= ends[0] <= ends[1] <= high:
            met = value.plain if isinstance(value, Uniform) else value
            raise RecipeError(f"{self.op}: {name} is {met}, expected {low:g} to {high:g}")

    def _check_words(self, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
        if _WORDS in metadata:
            for word in value if isinstance(value, tuple) else (value,):
                check_known(word, metadata[_WORDS], f"{self.op} has no {name} {word!r}")

    def _check_odd(self, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
        if _ODD in metadata and (value.low % 2 != 1 or value.high % 2 != 1):
            raise RecipeError(
                f"{self.op}: {name} is {value.plain}, expected odd whole numbers such as [7, 21]"
            )

    @abstractmethod
    def draws(self, columns: Iterator[Floats], reached: Flags) -> Iterator[Drawn]:
        """Yield what each patch draws, the steps inside one after another.

        Every step takes one of the `columns`, ``(n, NUMBERS)`` even in [0, 1), whether it is
        `reached` or not.
        """

    @property
    def step_count(self) -> int:
        """Return how many steps it is, with those inside."""
        return 1

    def ends_at_target(self, *, before: bool) -> bool:
        """Return whether the patch has the LR patch's size after it, whatever is drawn.

        `before` says whether it had that size before. Only steps that change sizes override this.
        """
        return before


@dataclass(frozen=True, kw_only=True)
class Step(Link):
    """One thing that happens to the pixels of a patch."""

    def draws(self, columns: Iterator[Floats], reached: Flags) -> Iterator[Drawn]:
        """Yield what each patch draws; number 0 decides whether the step happens."""
        numbers = next(columns)
        hit = reached & (numbers[:, 0] < self.chance)
        yield Drawn(step=self, hit=hit, values=self.draw(numbers))

    def draw(self, numbers: Floats) -> Values:
        """Return parameter -> its value for each patch, from ``(n, NUMBERS)`` even in [0, 1).

        The fields that have a range take the numbers from 1 on, in their order. A `Uniform` gives
        a number of its range, a chance 1 or 0: whether it came true.
        """
        values = {}
        ranged = (f for f in fields(self) if _RANGE in f.metadata and f.name != "chance")
        for slot, part in enumerate(ranged, start=1):
            value = getattr(self, part.name)
            if isinstance(value, Uniform):
                at = value.odd_at if _ODD in part.metadata else value.at
                values[part.name] = at(numbers[:, slot])
            elif value is not None:
                values[part.name] = np.where(numbers[:, slot] < value, 1.0, 0.0)
        return values

    @abstractmethod
    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return the levels ``(c, h, w)`` of one patch after the step, exactly.

        `values` has one number of each parameter, `target` is the size of the LR patch. The same
        arguments, and the same state of the generator, give the same bits.
        """

    @abstractmethod
    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return patches after the step, computed together on their device, in float32.

        `values` has one number of each parameter for every patch. Where nothing is drawn on the
        device, results equal those of `apply` within a level; else they have its distribution.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What n patches drew for one step: whether it happens to each, and with which values."""

    step: Step
    hit: Flags
    values: Values


def draw_all(links: Sequence[Link], columns: Iterator[Floats], reached: Flags) -> Iterator[Drawn]:
    """Yield what each patch draws for links one after another."""
    for link in links:
        yield from link.draws(columns, reached)


def count_all(links: Iterable[Link]) -> int:
    """Return how many steps links are, with those inside."""
    return sum(link.step_count for link in links)


def all_end_at_target(links: Iterable[Link], *, before: bool) -> bool:
    """Return whether the patch has the LR patch's size after the links, whatever is drawn."""
    there = before
    for link in links:
        if link.chance > 0:
            there = link.ends_at_target(before=there) and (there or link.chance == 1)
    return there


def check_known(word: Any, known: Iterable[str], problem: str) -> None:
    """Refuse a word that is not among the known ones.

    Raises:
        RecipeError: that states the problem, and names the nearest right word.
    """
    if word not in list(known):
        raise RecipeError(f"{problem}; {nearest(str(word), known)}")
