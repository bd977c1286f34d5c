"""Prefect's pages in a real browser: what a person who finds a failed night can click on."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from websockets.sync.client import connect

from flows.artifacts import show_night
from flows.services.deployments import register_flows
from pipeline.compute.status import JobStatus
from pipeline.jobs.request import UpscaleRequest
from pipeline.jobs.results import JobResult
from pipeline.reports.night import Speed
from pipeline.storage.ledger import INGESTED, ItemCount
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.services, pytest.mark.browser, pytest.mark.slow]

JOB = "/archive/my phötos 50%"


@flow(name="nightly")
def failed_night() -> None:
    """Show what a night with failed tiles shows."""
    count = ItemCount(item="a.png", state=INGESTED, units=27, done=18, failed=9)
    result = JobResult(status=JobStatus(Path(JOB), (count,), ()))
    request = UpscaleRequest(src="/in", job_dir=Path(JOB))
    show_night(request, result, speed=Speed(), scores={}, left_s=None)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """What evaluates JavaScript in a page of a browser."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    port = free_port()
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-proxy-server",
             f"--remote-debugging-port={port}", "--remote-allow-origins=*",
             f"--user-data-dir={tmp_path / 'browser'}", "about:blank"]  # fmt: skip
    browser = subprocess.Popen(
        [chromium, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with opened(f"http://127.0.0.1:{port}/json") as evaluate:
            yield evaluate
    finally:
        browser.terminate()
        browser.wait(120)


@contextmanager
def opened(address: str) -> Iterator[Callable[[str], Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    pages: list[dict[str, Any]] = []

    def listed() -> bool:
        try:
            pages[:] = json.load(opener.open(address, timeout=60))
        except (OSError, HTTPException, ValueError):  # It has just begun to answer.
            return False
        return any(one["type"] == "page" for one in pages)

    until(listed)
    (first, *_) = [one for one in pages if one["type"] == "page"]
    # A browser that is late with an answer is none that is gone.
    patient: dict[str, Any] = {"open_timeout": PATIENCE_S, "ping_interval": None}
    address = first["webSocketDebuggerUrl"]
    with connect(address, max_size=None, proxy=None, **patient) as socket:

        def evaluate(script: str) -> Any:
            asked = {"expression": script, "returnByValue": True}
            socket.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": asked}))
            while (answer := json.loads(socket.recv())).get("id") != 1:
                pass
            # An error instead of a result: the page was being left for another one.
            return answer.get("result", {}).get("result", {}).get("value")

        yield evaluate


def visit(page: Callable[[str], Any], address: str, shown: Callable[[], Any]) -> Any:
    """Open an address until its page shows something; try again now and then, as a person does."""
    for _ in range(8):
        page(f"location.href = {json.dumps(address)}")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if found := shown():
                return found
            time.sleep(0.5)
    raise AssertionError(f"the page shows {page('document.body.innerText')!r}")


@pytest.mark.parametrize("pages", ["", "/v2"], ids=["older", "newer"])
def test_the_summary_of_a_failed_night_leads_to_a_form_that_is_filled_in_for_its_job(
    api: str, page: Callable[[str], Any], pages: str
) -> None:
    with get_client(sync_client=True) as client:
        register_flows(client)
        state = failed_night(return_state=True)
        run = state.state_details.flow_run_id
        assert run is not None
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        (summary,) = client.read_artifacts(artifact_filter=of_run)
    root = api.removesuffix("/api")
    link = "document.querySelector('a[href*=\"/run?parameters=\"]')?.href"

    def summary_shown() -> Any:
        text = page("document.body.innerText") or ""
        return page(link) if f"upres rerun '{JOB}'" in text else None

    def form_filled() -> bool:
        values = "[...document.querySelectorAll('input, textarea')].map(one => one.value)"
        return JOB in (page(values) or [])

    to_form = visit(page, f"{root}{pages}/artifacts/artifact/{summary.id}", summary_shown)
    visit(page, to_form, form_filled)
    assert "/deployments/deployment/" in page("location.pathname")
    time.sleep(1)  # A form may be filled twice, and is empty for a moment then.
    until(form_filled, "the form is empty again")
