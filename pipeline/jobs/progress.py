"""What a run says on its way, and whether it is to stop: the caller's side of a run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from pipeline.compute.cluster import Stop
from pipeline.compute.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pipeline.jobs.upscale import UpscaleProgress


class Progress(Listener):
    """Says nothing and never stops a run. A caller that wants more overrides what it needs."""

    def stopping(self) -> AbstractContextManager[Stop]:
        """Return a block that yields the stop which ends a run early."""
        return nullcontext(Stop())

    def upscaling(self) -> AbstractContextManager[Callable[[UpscaleProgress], None]]:
        """Return a block that yields what upscaling calls with how far it is."""
        return nullcontext(lambda _progress: None)

    def replaces(self, items: int) -> None:
        """Take note that so many items have pixels that will be replaced by others."""

    def reruns(self, units: int, items: int) -> None:
        """Take note of what a rerun will compute."""
