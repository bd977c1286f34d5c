"""The result of a run, as the text that Prefect's pages show: counts, and what to do now."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flows.terminal.failures import failure_lines
from flows.terminal.printing import number_of, visible
from pipeline.jobs.request import RerunRequest
from pipeline.reports.night import nights_left
from pipeline.storage.ledger import REJECTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.request import UpscaleRequest
    from pipeline.jobs.results import JobResult
    from pipeline.reports.night import Speed
    from pipeline.storage.store import Place


def summary(
    job_dir: Place,
    result: JobResult,
    speed: Speed,
    scores: dict[str, Any],
    left_s: float | None,
) -> str:
    """Return the result of a run in Markdown."""
    items, units = result.status.items, result.status.units
    states = ("done", "failed", "pending")
    per_s = speed.megapixels_per_s
    rows = [
        ("Tiles", ", ".join(f"{units[s]:,} {s}" for s in states)),
        ("Items", ", ".join(f"{items[s]:,} {s}" for s in (*states, "rejected", "vanished"))),
        *_source(result),
        ("Computed in this run", f"{result.computed_units:,} tiles, {speed.megapixels:,.1f} MP"),
        ("Speed", "nothing computed" if per_s is None else f"{per_s:,.2f} megapixels per second"),
        ("Gain over bicubic", _gain(scores)),
        ("Time left in the budget", "no budget" if left_s is None else _duration(left_s)),
        ("Left for later", _left(result, speed)),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {plain(job_dir.name)}\n\n| | |\n|---|---|\n{lines}\n"


def mending_advice(result: JobResult) -> str:
    """Return which files were rejected and what was not scored or exported, in Markdown, and why.

    Empty where there is none of that. The tiles that failed are in a table of their own.
    """
    rejected = {count.item for count in result.status.counts if count.state == REJECTED}
    files = [failure for failure in result.status.failures if failure.item in rejected]
    return _listed(
        files,
        f"{number_of(len(files), 'file')} rejected",
        "Put a sound file in its place, or remove it from the source. The next run looks again.",
        elsewhere="upres status --json lists them all",
    ) + _listed(
        result.later_failures,
        f"{number_of(len(result.later_failures), 'item')} not scored or exported",
        "Once the reason is gone, the next run does what is missing.",
        elsewhere="the log has the first of them",
    )


def _listed(failures: Sequence[Failure], title: str, advice: str, *, elsewhere: str) -> str:
    if not failures:
        return ""
    lines = [f"- {plain(line)}" for line in failure_lines(failures, elsewhere=elsewhere)]
    return "\n".join(["", f"## {title}", "", *lines, "", advice, ""])


def rerun_advice(request: UpscaleRequest, failed: int, *, deployment: str) -> str:
    """Return how failed tiles are computed again, in Markdown: from Prefect's pages, or typed.

    `deployment` is the identifier of the deployment of `rerun-failed`; "" where there is none.
    """
    job = str(request.job_dir.absolute())
    asked, words = {"job_dir": job}, ["upres", "rerun", job]
    if request.cluster not in ("", RerunRequest.cluster):
        asked |= {"cluster": request.cluster}
        words += ["--cluster", request.cluster]
        if request.clusters is not None:
            file = str(request.clusters.absolute())
            asked |= {"clusters": file}
            words += ["--clusters", file]
    tiles = number_of(failed, "tile")
    where = (
        f"Open [rerun-failed for this job]({_form_of(deployment, asked)}) and submit the form, or"
        if deployment
        else "Start the flow `rerun-failed` with the same `job_dir`, or"
    )
    return (
        f"\n## {tiles} failed\n\nThe table of failed and worst tiles says why. "
        f"{where} type on the machine of the job:\n\n```\n{visible(shlex.join(words))}\n```\n"
    )


def _form_of(deployment: str, parameters: dict[str, str]) -> str:
    """Return where Prefect's pages ask for the parameters of a run, with some filled in.

    The address is relative to the page of a run or of an artifact, as the pages may be anywhere.
    Both of Prefect's pages understand it: the older ones decode percent signs a second time.
    """
    text = json.dumps(parameters, separators=(",", ":")).replace("%", r"\u0025")
    return f"../../deployments/deployment/{deployment}/run?parameters={quote(text, safe='')}"


def _source(result: JobResult) -> list[tuple[str, str]]:
    found = result.ingestion
    if found is None:
        return []
    return [
        (
            "Source, since the last run",
            f"{found.new:,} new, {found.changed:,} changed, {found.vanished:,} vanished",
        )
    ]


def _left(result: JobResult, speed: Speed) -> str:
    if not result.out_of_time:
        failed = result.status.units["failed"]
        again = [f"{failed:,} failed tiles, for rerun-failed"] if failed else []
        pending = [] if again and result.left == "nothing" else [result.left]
        return "; ".join([*pending, *again])
    nights = nights_left(result, speed)
    if nights is None:
        return f"{result.left}; how many nights that takes is not known yet"
    # Files that were not read, or planned, have no tiles to count yet.
    least = "at least " if result.unread else "about "
    return f"{result.left}; {least}{nights:,} more night{'' if nights == 1 else 's'} like this one"


def _gain(scores: dict[str, Any]) -> str:
    psnr, bicubic = scores.get("psnr_y"), scores.get("bicubic_psnr_y")
    if psnr is None or bicubic is None:
        return "not measured (no reference)"
    return f"{psnr - bicubic:+.2f} dB PSNR-Y ({psnr:.2f} dB)"


def _duration(seconds: float) -> str:
    if seconds <= 0:
        return "none"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain(text: str) -> str:
    """Return a name so that Markdown neither formats it nor takes it for a table or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", visible(text))
