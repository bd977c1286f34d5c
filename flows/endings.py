"""How a flow ends: in a state whose colour, name and message show the result.

A state of the type Completed has a green badge, whatever its name is. So the type is Failed where a
person must look. When time is up nobody must look: the next night goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.states import Cancelled, Completed, Failed

from flows.run_log import run_logger, say_errors_in_a_line
from flows.scheduled import later_run_due
from flows.services.event_order import send_first_event
from flows.services.heartbeat import beating
from flows.services.supervised import end_with_supervisor
from flows.terminal.failures import failure_lines
from flows.terminal.printing import number_of, visible
from pipeline.errors import JobBusyError, UpresError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import State

    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.results import JobResult
    from pipeline.storage.store import Place

WITH_FAILURES, OUT_OF_TIME, SKIPPED = "CompletedWithFailures", "OutOfTime", "Skipped"
"""Names of states: something failed; time was up; another run has the lock."""


class IncompleteError(UpresError):
    """A flow reached its end, but something failed on the way; `document` says what."""

    def __init__(self, message: str, document: dict[str, Any]) -> None:
        super().__init__(message)
        self.document = document


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The result of a flow: its document, and one line each for what failed and what is left."""

    document: dict[str, Any]
    trouble: str = ""
    """What failed, and what to do; "" where nothing did."""
    out_of_time: str = ""
    """What is left; "" where nothing is."""

    def state(self) -> State[Any]:
        """Return the state that a flow ends in."""
        if self.trouble:
            message = "; ".join(filter(None, (self.trouble, self.out_of_time)))
            error = IncompleteError(visible(message), self.document)
            return Failed(name=WITH_FAILURES, message=visible(message), data=error)
        if self.out_of_time:
            message = visible(self.out_of_time)
            return Completed(name=OUT_OF_TIME, message=message, data=self.document)
        return Completed(data=self.document)


def ended(work: Callable[[], Ending]) -> State[Any]:
    """Do the work of a flow, and return the state that it ends in.

    An error of ours is one line in the log and in the state; a bug keeps its traceback.
    """
    end_with_supervisor()
    say_errors_in_a_line()
    send_first_event()
    if (later := later_run_due()) is not None:
        message = f"missed; the run that was due at {later:%Y-%m-%d %H:%M} UTC does its work"
        return Cancelled(message=message)
    try:
        with beating():
            return work().state()
    except JobBusyError as error:
        message = visible(f"not begun: {error}; the next run goes on")
        run_logger().log(logging.ERROR, "%s", message)
        return Failed(name=SKIPPED, message=message, data=error)
    except UpresError as error:
        message = visible(" ".join(str(error).split()))
        run_logger().log(logging.ERROR, "%s", message)
        return Failed(message=message, data=error)


def document_of(state: State[Any]) -> dict[str, Any]:
    """Return the document of a flow that reached its end, with or without failures.

    Raises:
        UpresError: what ended the flow before.
    """
    try:
        document: dict[str, Any] = state.result()
    except IncompleteError as error:
        return error.document
    return document


def ending_of_job(result: JobResult, document: dict[str, Any], *, job_dir: Place) -> Ending:
    """Return how a flow ends whose run has this result."""
    left = f"time was up, left: {result.left}; the next run goes on" if result.out_of_time else ""
    return Ending(document=document, trouble=_trouble(result, job_dir), out_of_time=left)


def _trouble(result: JobResult, job_dir: Place) -> str:
    items, units = result.status.items, result.status.units
    advice = f"start rerun-failed with job_dir={job_dir}"
    parts = []
    if units["failed"]:
        parts.append(f"{units['failed']:,} of {number_of(sum(units.values()), 'tile')} failed")
    elif items["failed"]:
        parts.append(f"{items['failed']:,} of {number_of(sum(items.values()), 'item')} failed")
    if items["rejected"]:
        files = sum(items.values()) - items["vanished"]
        verb = "was" if items["rejected"] == 1 else "were"
        parts.append(f"{items['rejected']:,} of {number_of(files, 'file')} {verb} rejected")
    if result.later_failures:
        parts.append(_later(result.later_failures))
    if not parts and not result.complete and not result.out_of_time:
        parts.append(f"{result.left} are still to be done")
    if not parts:
        return ""
    if not (units["failed"] or items["failed"]):
        advice = "the log says which" if result.later_failures else "the report says why"
    return f"{', '.join(parts)}; {advice}"


def _later(failures: tuple[Failure, ...]) -> str:
    """Return how many items no stage after upscaling could handle, and why the first could not."""
    count = number_of(len(failures), "item")
    return f"{count} could not be scored or exported: {failure_lines(failures)[0]}"
