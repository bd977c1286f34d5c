"""What keeps a good state from being overwritten by a blown one.

Two looks: at every step, whether loss and gradient are near what they were (a step that is not is
skipped); and before anything is written, whether the networks still do what they did on a few
patches. Neither changes a training that goes well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from pipeline.training.state import TrainState

LOSS_TIMES, NORM_TIMES = 1e3, 1e4
"""How many times its running mean a loss, or the norm of a gradient, may be."""

_LEAST_NORM = 1e-3
_STEPS = 100
"""Steps that a running mean is of; of the first ones, of as many as there were."""
_NORMS_FIRST = 10
"""Gradients of the first steps of a stage may be anything."""

_FALLEN_DB, _TRAINED_DB = 12.0, 15.0
"""A network that was above 15 dB and falls below, by 12 dB or more, gives no picture any more."""
_UNTRAINED_DB, _WRECKED_DB = 5.0, 20.0
"""One that was worse than black all along is far off only 20 dB below that, or below itself."""
_PATCHES = 4
_MOST_DB = 100.0


@dataclass(slots=True)
class Running:
    """A running mean of what was met in good steps."""

    mean: float = 0.0
    count: int = 0

    def is_far(self, value: float, *, times: float, least: float, first: int = 0) -> bool:
        """Return whether a value is not finite, or so many times the mean, and `least` at that.

        After `first` values or fewer, none that is finite is far.
        """
        if not math.isfinite(value):
            return True
        return self.count > first and value > times * self.mean and value > least

    def take(self, value: float) -> None:
        """Let a value count."""
        self.count += 1
        self.mean += (value - self.mean) / min(self.count, _STEPS)


@dataclass(slots=True)
class Guard:
    """What losses and gradients of a stage were like."""

    loss: Running = field(default_factory=Running)
    norm: Running = field(default_factory=Running)
    discriminator_norm: Running = field(default_factory=Running)
    adversarial: bool = False

    def enter(self, *, adversarial: bool) -> None:
        """Begin again where the stage is another: its losses are others."""
        if adversarial != self.adversarial:
            self.loss, self.norm, self.discriminator_norm = Running(), Running(), Running()
            self.adversarial = adversarial

    def takes_loss(self, value: float, *, weights: float) -> bool:
        """Return whether a loss is near its mean, or below the sum of its weights."""
        good = not self.loss.is_far(value, times=LOSS_TIMES, least=weights)
        if good:
            self.loss.take(value)
        return good

    def takes_norm(self, value: float, *, of_discriminator: bool, clipped: bool) -> bool:
        """Return whether a gradient's norm is near its mean; `clipped`, it need only be finite."""
        running = self.discriminator_norm if of_discriminator else self.norm
        times = math.inf if clipped else NORM_TIMES
        least = NORM_TIMES * _LEAST_NORM
        good = not running.is_far(value, times=times, least=least, first=_NORMS_FIRST)
        if good:
            running.take(value)
        return good

    def to_tensor(self) -> Tensor:
        """Return it as seven numbers; the last one is 1 outside of adversarial stages."""
        running = (self.loss, self.norm, self.discriminator_norm)
        parts = [number for r in running for number in (r.mean, r.count)]
        return torch.tensor([*parts, float(not self.adversarial)], dtype=torch.float64)

    @classmethod
    def of_tensor(cls, tensor: Tensor) -> Guard:
        """Read what `to_tensor` returned.

        Raises:
            ValueError: if it is anything else.
        """
        if tensor.shape != (7,) or not torch.isfinite(tensor).all():
            raise ValueError(f"guard is {tensor.tolist()}, expected 7 numbers")
        *values, plain = tensor.tolist()
        loss, norm, discriminator_norm = (Running(values[n], int(values[n + 1])) for n in (0, 2, 4))
        return cls(loss, norm, discriminator_norm, adversarial=not plain)


@dataclass(slots=True)
class Probe:
    """A few patches that networks are tried on before they are written, and how good they were."""

    lr: Tensor
    hr: Tensor
    usual_db: float = -math.inf

    @classmethod
    def of(cls, lr: Tensor, hr: Tensor, networks: Iterable[nn.Module]) -> Probe:
        """Keep some of the patches, and how good `networks` are on them now."""
        probe = cls(lr[:_PATCHES].detach().clone(), hr[:_PATCHES].detach().clone())
        probe.usual_db = probe.measure(networks)
        return probe

    @torch.no_grad()
    def measure(self, networks: Iterable[nn.Module]) -> float:
        """Return the PSNR, in dB, of the worst network's output as it is, never clipped."""
        worst = _MOST_DB
        for network in networks:
            training = network.training
            sr = network.eval()(self.lr).double()
            network.train(training)
            error = float((sr - self.hr).square().mean())
            db = -10 * math.log10(max(error, 1e-10)) if math.isfinite(error) else -math.inf
            worst = min(worst, db)
        return worst

    def passes(self, db: float) -> bool:
        """Return whether networks of so many dB are worth keeping; what is becomes the usual."""
        fallen = db < self.usual_db - _FALLEN_DB and db < _TRAINED_DB <= self.usual_db
        wrecked = db < min(self.usual_db, _UNTRAINED_DB) - _WRECKED_DB or db == -math.inf
        if fallen or wrecked:
            return False
        self.usual_db = db if self.usual_db == -math.inf else (self.usual_db + db) / 2
        return True


@dataclass(slots=True)
class Soundness:
    """Whether networks are worth keeping, looked at once a step."""

    probe: Probe | None = None
    _looked: tuple[int, bool] = (-1, True)

    def begin(self, lr: Tensor, hr: Tensor, networks: Iterable[nn.Module]) -> None:
        """Take the first pair that comes as the patches to try networks on."""
        if self.probe is None:
            self.probe = Probe.of(lr, hr, networks)

    def holds(self, state: TrainState) -> bool:
        """Return whether all numbers are finite, and the networks near what they did before."""
        step, sound = self._looked
        if step != state.step:
            sound = state.is_finite()
            if sound and self.probe is not None:
                sound = self.probe.passes(self.probe.measure(state.generators))
            self._looked = state.step, sound
        return sound
