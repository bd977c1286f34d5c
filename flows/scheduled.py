"""When a flow was to begin, by its schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.context import FlowRunContext

if TYPE_CHECKING:
    from datetime import datetime


def due() -> datetime | None:
    """Return when the flow that runs was to begin; None for now.

    A run that a person starts again is to go on now, whenever it was first to begin.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.run_count > 1:
        return None
    return context.flow_run.expected_start_time
