"""The driver's loop: tasks go out to the workers, and their results come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.compute.submission import EVERY_WORKER, submit_windowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop


class Parts(Protocol):
    """A task of several parts (pictures, units): each has a result, whatever goes wrong."""

    def one_by_one(self) -> Iterable[Any]:
        """Yield a task for each part that can be done alone."""

    def failed(self, error: BaseException) -> list[Any]:
        """Return the results of parts that all failed for one reason."""


Task = TypeVar("Task", bound=Parts)


def work_through(
    client: Client,
    work: Callable[[Task], list[Any]],
    tasks: Iterable[Task],
    *,
    stop: Stop | None = None,
    resources: Mapping[str, float] = EVERY_WORKER,
) -> Iterator[tuple[Task, list[Any]]]:
    """Yield each task with the results of its parts, as they come.

    A task whose worker died is done again part by part, so that the one that kills its worker
    does not take others with it. Once `stop` is requested no more tasks are begun.
    """
    outcomes = submit_windowed(
        client,
        work,
        iter(tasks),
        stop=stop,
        split=lambda task: task.one_by_one(),
        resources=resources,
    )
    for outcome in outcomes:
        results = outcome.result
        if results is None:
            error: Any = outcome.error
            results = outcome.task.failed(error)
        yield outcome.task, results
