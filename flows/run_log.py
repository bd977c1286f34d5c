"""The log that Prefect keeps of a run."""

from __future__ import annotations

import logging

from prefect import get_run_logger
from prefect.exceptions import CancelledRun, MissingContextError

from pipeline.errors import UpresError

_OF_PROCESS = ("prefect.flow_runs", "prefect.engine")
"""Loggers through which Prefect repeats that a flow failed."""

_OF_TASKS = "prefect.task_runs"


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the logger of the running flow or task, or an ordinary one where none is running."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("upres.flows")


def say_errors_in_a_line() -> None:
    """Let Prefect log an error of ours without its traceback; a bug keeps its own.

    When a run has failed, its process raises the error of its state and logs it twice more.
    """
    for name in _OF_PROCESS:
        logging.getLogger(name).addFilter(_is_news)
    logging.getLogger(_OF_TASKS).addFilter(_without_traceback)


def _is_news(record: logging.LogRecord) -> bool:
    return not _is_ours(record)


def _without_traceback(record: logging.LogRecord) -> bool:
    if _is_ours(record):
        record.exc_info = None
    return True


def _is_ours(record: logging.LogRecord) -> bool:
    # A flow that ends in a state of the type Cancelled ends its process by an error of Prefect's.
    ours = (UpresError, CancelledRun)
    return record.exc_info is not None and isinstance(record.exc_info[1], ours)
