"""What `upres serve` prints of the runs that it carries out: lines for the person who reads them.

Prefect's handler of the console is the one place that a setting can change in the processes of
runs, before any line of ours runs there. What is left out here is in the log on Prefect's pages.
"""

from __future__ import annotations

import logging
import os

from prefect.logging.handlers import PrefectConsoleHandler

_OF_FLOWS, _OF_TASKS = "prefect.flow_runs", "prefect.task_runs"
_LINE = "%(asctime)s | %(levelname)-7s | %(flow_run_name)s - %(message)s"

SETTINGS = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": f"{__name__}.RunConsole",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": _LINE,
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": _LINE,
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%Y-%m-%d %H:%M:%S",
}
"""Variables by which Prefect, as it is imported, learns how the processes of runs print."""

_NOISE = {
    _OF_FLOWS: ("Downloading flow code from storage at ", "Running hook ", "Hook "),
    _OF_TASKS: ("Finished in state Completed(",),
}
"""How lines begin that are about Prefect itself. No warning and no error is left out."""


class RunConsole(PrefectConsoleHandler):
    """Prints what is logged, but for lines that say only how Prefect goes about it."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Print a line that is not about Prefect alone; return whether it was printed."""
        return not is_noise(record) and bool(super().handle(record))


def is_noise(record: logging.LogRecord) -> bool:
    """Return whether a line is about Prefect alone."""
    if record.levelno > logging.INFO:
        return False
    starts = next((found for name, found in _NOISE.items() if record.name.startswith(name)), ())
    return record.getMessage().startswith(starts)


def told_in_a_line(record: logging.LogRecord) -> bool:
    """Let a warning say its reason, but not where in the program it was noticed; return True."""
    if record.exc_info and record.levelno <= logging.WARNING:
        record.msg, record.args = f"{record.getMessage()} ({record.exc_info[1]})", ()
        record.exc_info = record.exc_text = None
    return True


def print_runs_plainly() -> None:
    """Let the processes of runs, which are started from here, print plain lines.

    What a person has set for Prefect's log stays.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
