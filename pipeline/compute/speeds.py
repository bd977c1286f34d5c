"""How fast this machine computes a network, by how much goes through it at once.

What belongs here: measuring that, in a second or two, and keeping it in the user's cache for all
runs to come. Not: what follows from it (`pipeline.compute.windows`). No pixel depends on any of
this, so machines may differ, and a cache that cannot be used costs a measurement and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from pipeline.compute.instructions import limited_to
from pipeline.compute.machine import cores, processor
from pipeline.compute.worker import worker_number
from pipeline.errors import JobBusyError, ModelError, UpresError
from pipeline.storage.user_cache import alone, keep, kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.spec import ModelSpec
    from pipeline.compute.backends import Backend

logger = logging.getLogger(__name__)

SPEEDS = "speeds"
"""Name of the file that keeps them."""

SIDES_PX = (298, 213, 170, 426, 128)
"""Windows that are measured, as long as time is left: those of a tile of 512 px in two and three
parts, of one of 256 px in two, and what is to be compared with them."""

_BUDGET_S, _LEAST_BUDGET_S, _WALL_S = 2.0, 5.0, 30.0
"""Seconds of computing for all sides, for the first two, and by the clock on the wall."""

_COMPILED_PX = 64
"""Side of the window by which a network is compiled, and its speed guessed."""

_FIRST_AND_SECOND = 2.2
"""Of two runs of one size the first does more: a fifth, measured on OpenVINO 2026.4."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """LR pixels a second of square windows by their side, the smallest first; empty if unknown."""

    by_side: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        sides = [side for side, _ in self.by_side]
        if sides != sorted(set(sides)) or any(side < 1 for side in sides):
            raise ValueError(f"sides are {sides}, expected positive ones that rise")
        if not all(math.isfinite(speed) and speed > 0 for _, speed in self.by_side):
            raise ValueError(f"speeds are {self.by_side}, expected positive numbers")

    def __bool__(self) -> bool:
        """Return whether anything is known."""
        return bool(self.by_side)

    @property
    def least_px(self) -> int:
        """Return the fewest pixels that were measured."""
        return self.by_side[0][0] ** 2

    @property
    def most_px(self) -> int:
        """Return the most pixels that were measured."""
        return self.by_side[-1][0] ** 2

    def at(self, pixels: int) -> float:
        """Return the speed with so many pixels at once: between two sides a straight line.

        Beyond the largest that was measured it is as fast as that.
        """
        side = math.sqrt(pixels)
        for (low, slow), (high, fast) in pairwise(self.by_side):
            if side < high:
                return slow + (fast - slow) * max(0.0, side - low) / (high - low)
        return self.by_side[-1][1]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a measurement holds for: a network, what computes it, and the machine."""

    network: str
    backend: str
    precision: str
    threads: int

    @classmethod
    def of(cls, spec: ModelSpec, *, backend: str, precision: str) -> Subject:
        """Return that of computing a model in this process; its weights do not matter."""
        arguments = json.dumps(spec.arguments, sort_keys=True)
        network = f"{spec.architecture} {arguments} x{spec.scale} {spec.channels} channels"
        return cls(network, backend, precision, torch.get_num_threads())

    def key(self) -> str:
        """Return it as one line, with the machine and the version of what computes."""
        library = (
            f"{self.backend} {_version(self.backend)} {self.precision} {limited_to()}".rstrip()
        )
        return f"{self.network} | {library} | {self.threads} of {cores()} cores | {processor()}"


def known_or_measured(
    subject: Subject, measure: Callable[[], Speeds | None], file: Path | None
) -> Speeds:
    """Return the speeds that `file` keeps of a subject; measured and kept, if it has none.

    One process of a machine measures and the others wait for it, as they would slow it down.
    """
    key = subject.key()
    if file is None:
        return _measured(key, measure) or Speeds()
    known = _known(file, key)
    if known is not None:
        return known
    with ExitStack() as holding:
        try:
            holding.enter_context(alone(file))
        except JobBusyError as error:
            logger.info("not measured here: %s", error)
            return Speeds()
        except (OSError, UpresError) as error:
            _warn(str(error))
            return _measured(key, measure) or Speeds()
        known = _known(file, key)
        if known is not None:
            return known
        speeds = _measured(key, measure)
        if speeds is not None:
            _keep(file, key, speeds)
        return speeds or Speeds()


def measure_speeds(backend: Backend, *, channels: int, precision: str) -> Speeds | None:
    """Measure a network with seeded random pixels, within a bounded time.

    Of a network that is too slow for it nothing is known, and None is what cannot be measured now:
    where others leave it no time, or it does not compute at all, which its units will say.
    """
    run = _Timed(backend, channels, precision)
    began = time.monotonic()
    speeds: dict[int, float] = {}
    try:
        run.seconds(_COMPILED_PX)
        slowest, spent = run.seconds(_COMPILED_PX) / _COMPILED_PX**2, 0.0
        for side in SIDES_PX:
            if time.monotonic() - began > _WALL_S:
                return None
            budget_s = _LEAST_BUDGET_S if len(speeds) < 2 else _BUDGET_S
            if spent + _FIRST_AND_SECOND * slowest * side**2 > budget_s:
                continue
            first, second = run.seconds(side), run.seconds(side)
            spent += first + second
            speeds[side] = side**2 / second
            slowest = second / side**2
    except (MemoryError, RuntimeError, ModelError) as error:
        logger.info("%s cannot be measured here: %s", backend.name, error)
        return None
    return Speeds(tuple(sorted(speeds.items()))) if len(speeds) > 1 else Speeds()


class _Timed:
    """Runs of a network on random pixels, by the time that they take."""

    def __init__(self, backend: Backend, channels: int, precision: str) -> None:
        self._backend = backend
        self._channels = channels
        self._precision = precision
        self._generator = torch.Generator().manual_seed(0)
        # One thread's own time where there is one, as others may keep its core busy, too.
        self._clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def seconds(self, side: int) -> float:
        """Return how long a square window takes."""
        x = torch.rand(1, self._channels, side, side, generator=self._generator)
        before = self._clock()
        self._backend.run(x, self._precision)
        return max(self._clock() - before, 1e-9)


def _measured(key: str, measure: Callable[[], Speeds | None]) -> Speeds | None:
    speeds = measure()
    shown = [f"{side} px {speed / 1e6:.3f}" for side, speed in (speeds or Speeds()).by_side]
    logger.info("LR megapixels/s by window: %s (%s)", ", ".join(shown) or "not measured", key)
    return speeds


@cache
def _warn(error: str) -> None:
    """Say once, of all workers of a cluster of this machine, that nothing can be kept."""
    level = logging.INFO if worker_number() else logging.WARNING
    logger.log(level, "the speed of this machine is measured in every run, not kept: %s", error)


def _version(package: str) -> str:
    """Return the version of a package, "" where it was installed under another name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _known(file: Path, key: str) -> Speeds | None:
    """Return what a file keeps of a subject, None where that is nothing that could be."""
    try:
        pairs = kept(file)[key]
        return Speeds(tuple((int(side), float(speed)) for side, speed in pairs))
    except (KeyError, OverflowError, TypeError, ValueError):
        return None


def _keep(file: Path, key: str, speeds: Speeds) -> None:
    try:
        keep(file, key, speeds.by_side)
    except OSError as error:
        _warn(str(error))
