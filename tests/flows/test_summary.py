"""The summary of a run says what it came to, and what a person can do about failed tiles."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from flows.summary import mending_advice, rerun_advice, summary
from pipeline.compute.outcomes import Failure
from pipeline.compute.status import JobStatus
from pipeline.jobs.export.stage import ExportResult
from pipeline.jobs.request import UpscaleRequest
from pipeline.jobs.results import JobResult
from pipeline.reports.night import Speed
from pipeline.storage.ledger import INGESTED, REJECTED, ItemCount


def test_failed_tiles_are_among_what_is_left() -> None:
    count = ItemCount(item="a", state=INGESTED, units=27, done=18, failed=9)
    result = JobResult(status=JobStatus(Path("job"), (count,), ()))
    said = summary(Path("job"), result, Speed(), {}, None)
    assert "| Left for later | 9 failed tiles, for rerun-failed |" in said


def test_what_was_rejected_or_not_exported_is_named_with_its_reason_and_what_to_do() -> None:
    counts = [ItemCount(f"{n:02}.png", REJECTED, units=0, done=0, failed=0) for n in range(22)]
    rejected = [
        Failure(count.item, None, "PictureError", f"{count.item}: cut *{chr(97 + n)}*")
        for n, count in enumerate(counts)
    ]
    tile = Failure("a.png", 3, "MemoryError", "no memory")
    unwritten = [Failure(f"b|{n}.png", None, "DiskError", "it is full") for n in range(2)]
    status = JobStatus(Path("job"), tuple(counts), (*rejected, tile))
    exported = ExportResult(failures=tuple(unwritten))
    said = mending_advice(JobResult(status=status, exported=exported))
    assert "## 22 files rejected\n\n- 00.png: PictureError: cut \\*a\\*\n- 01.png" in said
    assert said.count("cut ") == 20
    rest = "- and 2 more \\(2 PictureError\\); upres status --json lists them all"
    assert f"{rest}\n\nPut a sound file in its place" in said
    one = "- b\\|0.png: DiskError: it is full \\(and 1 more like this\\)"
    assert f"## 2 items not scored or exported\n\n{one}\n\nOnce the reason is gone" in said
    assert "no memory" not in said
    unscored = tuple(Failure(f"{n}.png", None, f"Error{n}", "gone") for n in range(21))
    said = mending_advice(JobResult(status=JobStatus(Path("job"), (), ()), unscored=unscored))
    assert "- and 1 more \\(1 Error20\\); the log has the first of them" in said
    assert mending_advice(JobResult(status=JobStatus(Path("job"), (), (tile,)))) == ""


@pytest.mark.parametrize("folder", ["/photos", '/my photos/Übersee 50% #1 (neu) "x" & `y`/日本'])
def test_the_advice_leads_to_a_form_that_is_filled_in_and_gives_the_command(folder: str) -> None:
    request = UpscaleRequest(src="/in", job_dir=Path(folder), cluster="tcp://10.0.0.1:8786")
    said = rerun_advice(request, 1_234, deployment="1f2e")
    assert "## 1,234 tiles failed" in said
    link = said.split("](")[1].split(")")[0]
    address = urlsplit(link)
    assert address.path == "../../deployments/deployment/1f2e/run"
    (text,) = parse_qs(address.query)["parameters"]
    wanted = {"job_dir": folder, "cluster": "tcp://10.0.0.1:8786"}
    # One of Prefect's pages decodes percent signs twice.
    assert json.loads(text) == json.loads(unquote(text)) == wanted
    command = said.split("```")[1].strip()
    assert shlex.split(command) == ["upres", "rerun", folder, "--cluster", "tcp://10.0.0.1:8786"]


def test_the_advice_names_the_flow_where_the_server_has_no_form_for_it() -> None:
    request = UpscaleRequest(src="/in", job_dir=Path("job"))
    said = rerun_advice(request, 1, deployment="")
    assert "## 1 tile failed" in said
    assert "](" not in said
    assert "Start the flow `rerun-failed` with the same `job_dir`" in said
    assert f"upres rerun {Path.cwd() / 'job'}\n" in said
