"""When the running flow should have begun, by its schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.context import FlowRunContext

if TYPE_CHECKING:
    from datetime import datetime


def due() -> datetime | None:
    """Return when the running flow should have begun; None means now.

    A run that a person starts again begins now, whatever its schedule was.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.run_count > 1:
        return None
    return context.flow_run.expected_start_time
