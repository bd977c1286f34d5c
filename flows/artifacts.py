"""What a person sees of a run in the UI of Prefect, beside its log: progress, summary, pictures.

None of it is needed. If Prefect does not accept something, a warning says so and the run goes on.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import zlib
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from flows.run_log import run_logger
from flows.services.deployments import BY_HAND
from flows.summary import mending_advice, plain, rerun_advice, summary
from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from pipeline.jobs.request import UpscaleRequest
    from pipeline.jobs.results import JobResult
    from pipeline.reports.night import BeforeAfter, Look, Speed
    from pipeline.storage.store import Place

PROGRESS_EVERY_S = 5.0
_PATIENCE_S = 10.0
"""Seconds that the run waits for the last figure of a stage to arrive."""
MOST_ROWS = 25


def key_of(job_dir: Place, what: str) -> str:
    """Return the key of an artifact of a job: lower case letters, digits and dashes."""
    name, what = (
        re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (job_dir.name, what)
    )
    place = zlib.crc32(str(job_dir.absolute()).encode(errors="surrogateescape"))
    return f"{name[:40] or 'job'}-{place:08x}-{what}"


@contextmanager
def moving(job_dir: Place, stage: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a stage is, every few seconds; yield a function of ``(done, total)``.

    A separate thread talks to Prefect. Its server may be slow or gone, but the stage never waits.
    """
    if FlowRunContext.get() is None:
        yield lambda _done, _total: None
        return
    progress = _Progress(key_of(job_dir, f"{stage} progress"), f"{stage} of {job_dir.name}")
    context = copy_context()
    thread = threading.Thread(target=lambda: context.run(progress.show), daemon=True)
    thread.start()
    try:
        yield progress.hear
    finally:
        progress.ended.set()
        thread.join(_PATIENCE_S)


class _Progress:
    """A figure that changes, and the thread that shows it."""

    def __init__(self, key: str, about: str) -> None:
        self.ended = threading.Event()
        self._key, self._about = key, about
        self._counted = (0, 0)
        self._id: UUID | None = None

    def hear(self, done: int, total: int) -> None:
        """Keep how far the stage is now."""
        self._counted = (done, total)

    def show(self) -> None:
        """Show it until the stage ends, and once more then."""
        shown, level = None, logging.WARNING
        while True:
            last = self.ended.is_set()
            if self._counted != shown:
                shown = self._counted
                taken = _offered(partial(self._send, *shown), level=level)
                # One warning a stage, also where the server is gone all night.
                level = level if taken else logging.DEBUG
            if last:
                return
            self.ended.wait(PROGRESS_EVERY_S)

    def _send(self, done: int, total: int) -> None:
        # The page shows every digit, so it is rounded here.
        percent = round(100.0 * min(done, total) / total, 1) if total else 0.0
        about = f"{self._about}: {done:,} of {total:,}"
        if self._id is None:
            made = create_progress_artifact(percent, key=self._key, description=about)
            self._id = cast("UUID", made)
        else:
            update_progress_artifact(self._id, percent, description=about)


def show_links(job_dir: Place, *, report: Place, dashboard: str | None) -> None:
    """Show where the report is and will be, and where Dask shows its workers, once there are."""
    lines = [
        f"Report of the job, written as the run ends: {plain(str(report))}",
        f"Dask dashboard: {_dashboard(dashboard)}",
    ]
    _show(job_dir, "links", "\n\n".join(lines), "Report and dashboard")


def _dashboard(address: str | None) -> str:
    if address is None:
        return "none, as nothing was found to compute yet."
    if not address:
        return "none, as the workers are the run's own on this machine."
    return f"[{address}]({address})"


def show_night(
    request: UpscaleRequest,
    result: JobResult,
    *,
    speed: Speed,
    scores: dict[str, Any],
    left_s: float | None,
) -> None:
    """Show the result of a run, and what to do if tiles failed."""
    job_dir = request.job_dir
    text = summary(job_dir, result, speed, scores, left_s) + mending_advice(result)
    failed = result.status.units["failed"]
    if failed and FlowRunContext.get() is not None:
        text += rerun_advice(request, failed, deployment=_deployment_of_rerun())
    _show(job_dir, "summary", text, "Summary of the run")


def show_looks(job_dir: Place, looks: Sequence[Look]) -> None:
    """Show the failed and the worst tiles in a table, without the columns that say nothing."""
    rows = [_row(look) for look in looks]
    told = {name for row in rows for name, value in row.items() if value != ""}
    rows = [{name: value for name, value in row.items() if name in told} for row in rows]
    if rows and FlowRunContext.get() is not None:
        key = key_of(job_dir, "tiles")
        _offered(lambda: create_table_artifact(rows, key=key, description="Failed and worst tiles"))


def _row(look: Look) -> dict[str, str | int]:
    measured = look.gain is not None
    return {
        "item": visible(look.item),
        "tile": "" if look.tile is None else look.tile,
        "state": "failed" if look.reason else "done",
        "reason": visible(look.reason),
        "gain over bicubic, dB": _figure(look.gain),
        "PSNR-Y, dB": _figure(look.psnr) if measured else "",
        # Without a reference SR is compared with its own LR: a high figure, not a quality.
        "PSNR-Y of SR made small again, to its LR, dB": "" if measured else _figure(look.psnr),
    }


def show_pictures(job_dir: Place, pictures: Sequence[BeforeAfter]) -> None:
    """Show windows before and after, side by side."""
    parts = [
        f"**{plain(one.item)}**\n\n| bicubic | upscaled |\n|---|---|\n"
        f"| ![bicubic]({one.before}) | ![upscaled]({one.after}) |"
        for one in pictures
    ]
    if parts:
        _show(job_dir, "pictures", "\n\n".join(parts), "Before and after")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _deployment_of_rerun() -> str:
    """Return the identifier of the deployment from which a person starts `rerun-failed`."""
    try:
        with get_client(sync_client=True) as client:
            return str(client.read_deployment_by_name(f"rerun-failed/{BY_HAND}").id)
    except (httpx.HTTPError, PrefectException):
        return ""  # The run was begun by a script, at a server that has no deployments.


def _show(job_dir: Place, what: str, markdown: str, about: str) -> None:
    if FlowRunContext.get() is not None:
        key = key_of(job_dir, what)
        _offered(lambda: create_markdown_artifact(markdown, key=key, description=about))


def _offered(send: Callable[[], Any], *, level: int = logging.WARNING) -> bool:
    """Send something to Prefect, and return whether it was taken; if not, the log says why."""
    began = time.monotonic()
    try:
        send()
    except Exception as error:
        said = " ".join(str(error).split())
        seconds = time.monotonic() - began
        line = f"Prefect took no artifact after {seconds:.0f} s: {type(error).__name__}: {said}"
        run_logger().log(level, "%s", visible(line))
        return False
    return True
