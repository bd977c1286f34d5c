"""Means of a training's figures over steps, of one process or of all."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import astuple, dataclass, field, fields
from typing import TYPE_CHECKING

import torch

from models.losses import Judgements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.training.processes import Processes

_JUDGEMENTS = "judgements"


@dataclass(slots=True)
class Means:
    """Sums of figures and of the discriminator's judgements, and how many there are of each."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    judgements: Judgements = field(default_factory=Judgements)

    def add(self, name: str, value: float) -> None:
        """Count a value, unless it is not finite."""
        counts = math.isfinite(value)
        self.sums[name] += value if counts else 0.0
        self.counts[name] += counts

    def __add__(self, other: Means) -> Means:
        """Return the sums of both."""
        both = Means(judgements=self.judgements + other.judgements)
        for part in (self, other):
            for name, value in part.sums.items():
                both.sums[name] += value
                both.counts[name] += part.counts[name]
        return both

    def of_all(self, processes: Processes) -> Means:
        """Return the sums of all processes, each of which has figures of the same names."""
        if processes.count == 1:
            return self
        tensors = self.tensors()
        flat = torch.cat([tensor.to(torch.float64) for tensor in tensors.values()])
        parts = processes.sum(flat).split([len(tensor) for tensor in tensors.values()])
        together = Means()
        together.restore(dict(zip(tensors, parts, strict=True)))
        return together

    def row(self) -> dict[str, float | None]:
        """Return the means by name."""
        means: dict[str, float | None] = {
            name: value / self.counts[name]
            for name, value in self.sums.items()
            if self.counts[name]
        }
        if "discriminator" in means:
            names = ("accuracy", "precision", "recall", "f1", "specificity")
            means |= {name: getattr(self.judgements, name) for name in names}
        return means

    def tensors(self) -> dict[str, Tensor]:
        """Return sums and counts by name."""
        pairs = {
            name: torch.tensor([value, self.counts[name]], dtype=torch.float64)
            for name, value in self.sums.items()
        }
        return pairs | {_JUDGEMENTS: torch.tensor(astuple(self.judgements))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` returned."""
        for name, values in tensors.items():
            if name == _JUDGEMENTS:
                names = (f.name for f in fields(Judgements))
                counts = map(int, values.tolist())
                self.judgements = Judgements(**dict(zip(names, counts, strict=True)))
            else:
                self.sums[name], count = values.tolist()
                self.counts[name] = int(count)
