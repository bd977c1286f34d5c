"""The log that Prefect keeps of a run."""

from __future__ import annotations

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the logger of the flow or task that runs; one like others where none does."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("upres.flows")
