"""Listeners: what follows the progress of a run on a job, and may stop it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from pipeline.compute.listener import Listener
from pipeline.compute.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compute.cluster import ClusterSettings
    from pipeline.jobs.upscale.stage import UpscaleProgress


class JobListener(Listener):
    """Does nothing and never stops a run; callers override the methods that they need."""

    def stopping(self) -> AbstractContextManager[Stop]:
        """Return a context of a run; it yields the stop which ends the run early."""
        return nullcontext(Stop())

    def holds_job(self) -> None:
        """Take notice that the run has the lock of its job: no other run is going on there."""

    def connects(self, settings: ClusterSettings) -> None:
        """Take notice of the workers that the run is about to connect to."""

    def upscaling(self) -> AbstractContextManager[Callable[[UpscaleProgress], None]]:
        """Return a context of upscaling; it yields a function that takes the progress."""
        return nullcontext(lambda _progress: None)

    def replaces(self, items: int) -> None:
        """Take notice of how many items have pixels that will be replaced."""

    def reruns(self, units: int, items: int) -> None:
        """Take notice of what a rerun will compute."""
