"""Who hears of a run on a job while it goes on, and may stop it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from pipeline.compute.listener import Listener
from pipeline.compute.submission import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compute.cluster import ClusterSettings
    from pipeline.jobs.upscale import UpscaleProgress


class JobListener(Listener):
    """Keeps silent and never stops a run. A caller that wants more overrides what it needs."""

    def stopping(self) -> AbstractContextManager[Stop]:
        """Return a context of a run; it yields the stop which ends the run early."""
        return nullcontext(Stop())

    def holds_job(self) -> None:
        """Hear that the run holds its job: no other run goes on there."""

    def connects(self, settings: ClusterSettings) -> None:
        """Hear which workers the run is about to connect to."""

    def upscaling(self) -> AbstractContextManager[Callable[[UpscaleProgress], None]]:
        """Return a context of upscaling; it yields what hears how far it is."""
        return nullcontext(lambda _progress: None)

    def replaces(self, items: int) -> None:
        """Hear that so many items have pixels that will be replaced by others."""

    def reruns(self, units: int, items: int) -> None:
        """Hear what a rerun will compute."""
