"""Tasks that are repeated where that can help: when a scheduler or a database comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import task

from pipeline.errors import ClusterError, LedgerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS_S = [30, 120, 300]
"""Time for a supervisor to start a scheduler or a database again."""


def comes_back(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a task that failed may succeed when it is tried again."""
    error = (
        state.data if isinstance(state.data, BaseException) else getattr(state.data, "result", None)
    )
    return isinstance(error, (ClusterError, LedgerError)) and not isinstance(error, UsageError)


def patient(work: Callable[P, R]) -> Task[P, R]:
    """Make a task of `work` that is tried again where that can help."""
    return task(
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=RETRY_DELAYS_S,  # type: ignore[arg-type]
        retry_condition_fn=comes_back,
    )(work)
