"""Events that Prefect's server waits for in vain, and notifications with it: sent after all.

Each change of a run's state is an event that follows the one before. Automations hold an event back
until they saw the one that it follows, for at most 15 minutes, if both are of the same 5 minutes.
Prefect 3.9.1 never sends the first event of a run that its own scheduler made. And what a server
saw is lost as it ends. So a webhook would be a quarter of an hour late for a run that ends soon
after it was scheduled, and would not be called at all if the server ended meanwhile.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import PrefectException

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State

_LOG = logging.getLogger("upres.serve")


def send_first_event() -> None:
    """Send the event that the running flow was scheduled, where the server did not.

    No run fails for it: without it, notifications come later.
    """
    context = FlowRunContext.get()
    run = context and context.flow_run
    if not run or not run.auto_scheduled:
        return
    try:
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(run.id)
    except (httpx.HTTPError, PrefectException) as error:
        _LOG.debug("the first event of run %s is not sent: %s", run.id, error)
        return
    if states:
        send_event(run.id, min(states, key=lambda one: one.timestamp))


def send_event(run: UUID, state: State[object]) -> None:
    """Send the event that a run changed to a state, as the server does, which keeps one of both."""
    emit_event(
        event=f"prefect.flow-run.{state.name}",
        resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
        occurred=state.timestamp,
        id=state.id,
    )
