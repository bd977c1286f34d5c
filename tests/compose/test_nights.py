"""All services of docker-compose.yml, built and started: nights that lose a part of them.

In order: a night in which a Dask worker, the scheduler, and at last the Prefect worker with its
flow are killed; the night after it; a failed tile that is computed again; a scheduled night that
nothing disturbs, whose bytes the other ones must have; and everything taken down and up again.
Then a night with source, job and export in a bucket of the object store, which is killed meanwhile.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.compose.conftest import Docker
    from tests.conftest import SavePicture

pytestmark = pytest.mark.compose

PICTURES, SIDE_PX, TILE_PX = 24, 256, 32
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
ASKED = {"src": "/data/pictures", "model": "bicubic-x2", "tile_px": TILE_PX}
REJECTED = f"1 of {PICTURES} files was rejected; the report says why"
PATIENCE_S = 900.0

PLANT = """
import sqlite3
ledger = sqlite3.connect("/data/first/ledger.sqlite")
with ledger:
    planted = ledger.execute(
        "UPDATE units SET state = 'failed', error = 'Planted', message = 'for a test'"
        " WHERE item = '07.png' AND tile = 5"
    )
    assert planted.rowcount == 1
"""
"""Makes a tile that is done a failed one."""


FEW = 8
"""Pictures of the night in a bucket."""

MAKE_BUCKET = "echo 's3.bucket.create -name night' | weed shell"

FILL = """
import sys
from pathlib import Path
from pipeline.storage.store import place_of
for file in Path(sys.argv[1]).iterdir():
    (place_of(sys.argv[2]) / file.name).write_bytes(file.read_bytes())
"""

HASHES = """
import hashlib, json, sys
from pathlib import Path
from pipeline.storage.store import place_of
found = {}
for place in map(place_of, sys.argv[1:]):
    if isinstance(place, Path):
        files = {str(p.relative_to(place)): p for p in place.rglob("*") if p.is_file()}
    else:
        start = len(place.key) + 1
        files = {one.key[start:]: place / one.key[start:] for one in place.below()}
    for name, file in files.items():
        # Provenance says where a picture came from.
        if not name.endswith(".json"):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
print(json.dumps(found))
"""
"""Prints the hash of every file below some places but of those that say where it came from."""


@dataclass(frozen=True)
class Stack:
    """The services, and how to speak to them."""

    docker: Docker
    environment: Path
    password: str
    prefect_port: int
    dask_port: int

    def compose(self, *words: object) -> str:
        """Run a command of Compose on the services."""
        return self.docker.compose("-p", "upres-test", "--env-file", self.environment, *words)

    def container(self, service: str) -> str:
        """Return the id of a service's first container."""
        return self.compose("ps", "--quiet", service).split()[0]

    def process(self, service: str) -> int:
        """Return the id of the process of a service's first container."""
        return int(self.docker("inspect", "-f", "{{.State.Pid}}", self.container(service)))

    def kill(self, service: str) -> None:
        """Kill a container as a crash does; an engine starts those again that it killed itself."""
        os.kill(self.process(service), signal.SIGKILL)

    def inside(self, *words: object) -> str:
        """Run a command in the Prefect worker's container; return what it prints."""
        return self.compose("exec", "-T", "prefect-worker", *words)

    def tried(self, *words: object) -> str:
        """Do the same, but return "" where the container is not running."""
        try:
            return self.inside(*words)
        except AssertionError:
            return ""

    def api(self, path: str, body: Any = None) -> Any:
        """Return what Prefect's server answers."""
        url = f"http://127.0.0.1:{self.prefect_port}/api{path}"
        token = base64.b64encode(f"upres:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers=headers)
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # What it says while its database is busy; Prefect's own clients repeat it, too.
                if error.code != 503 or time.monotonic() > until:
                    raise
                time.sleep(1)

    def start(self, flow: str, **parameters: Any) -> str:
        """Start a flow by its deployment; return the id of its run."""
        deployment = self.api(f"/deployments/name/{flow}/upres")["id"]
        asked = {"parameters": parameters}
        return str(self.api(f"/deployments/{deployment}/create_flow_run", asked)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Return the state of a run."""
        found: dict[str, Any] = self.api(f"/flow_runs/{run}")["state"]
        return found

    def ended(self, run: str) -> tuple[str, str]:
        """Wait for the end of a run; return the name of its state, and the message."""
        state = wait(
            lambda: (s := self.state(run))["type"] in ENDED and s, "the end of a run", every_s=2
        )
        return state["name"], state["message"] or ""

    def units_done(self) -> int:
        """Return how many units were done since the scheduler started, 0 while it is gone."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.dask_port}/metrics", timeout=60
            ) as page:
                found = re.search(rb'upres_units_total\{result="done"\} (\S+)', page.read())
        except (OSError, HTTPException):
            return 0
        return int(float(found[1])) if found else 0

    def archive(self, job: str) -> dict[str, str]:
        """Return the hash of every file of a job's SR archive."""
        words = ["cp", f"{self.container('prefect-worker')}:/data/{job}/sr.zarr", "-"]
        with (
            subprocess.Popen(
                [self.docker.program, *words],
                env=self.docker.environment,
                stdout=subprocess.PIPE,
            ) as copying,
            tarfile.open(fileobj=copying.stdout, mode="r|") as tar,
        ):
            return {
                member.name: hashlib.sha256(content.read()).hexdigest()
                for member in tar
                if (content := tar.extractfile(member)) is not None
            }


def wait(found: Callable[[], Any], what: str, *, every_s: float = 0.3) -> Any:
    """Return what `found` does, as soon as that is something."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if it := found():
            return it
        time.sleep(every_s)
    raise TimeoutError(f"waited for {PATIENCE_S:.0f} s for {what}")


@pytest.fixture(scope="module")
def stack(
    docker: Docker, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Start all services; what they said goes to the terminal if a test fails."""
    file = tmp_path_factory.mktemp("stack") / "env"
    made = Stack(docker, file, secrets.token_hex(24), free_port(), free_port())
    variables = {
        **images,
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "PREFECT_PASSWORD": made.password,
        "PREFECT_PORT": made.prefect_port,
        "DASK_PORT": made.dask_port,
        "COMPOSE_PROFILES": "s3",
        "S3_KEY_ID": "upres",
        "S3_SECRET": secrets.token_hex(24),
        "S3_PORT": free_port(),
    }
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    try:
        made.compose("up", "--detach", "--wait", "--no-build")
        yield made
    finally:
        print(made.compose("logs", "--no-color", "--tail", "60"))  # noqa: T201
        made.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, save: SavePicture) -> Path:
    """Pictures of which one ends too soon."""
    folder = tmp_path_factory.mktemp("source") / "pictures"
    noise = np.random.default_rng(0)
    for n in range(PICTURES - 1):
        # Those of equal sizes would go into stacks, of few units.
        shape = (3, SIDE_PX, SIDE_PX + n)
        save(folder / f"{n:02}.png", noise.integers(0, 256, shape, dtype=np.uint8))
    whole = (folder / "00.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_the_image_is_below_1_6_gb_and_runs_without_root(
    docker: Docker, images: dict[str, str]
) -> None:
    image = images["UPRES_IMAGE"]
    assert int(docker("inspect", "-f", "{{.Size}}", image)) < 1.6e9
    assert docker("run", "--rm", "--read-only", image, "id", "-u").strip() == "1000"


def test_the_pages_are_there_and_the_api_asks_for_a_password(stack: Stack) -> None:
    page = f"http://127.0.0.1:{stack.prefect_port}"
    for path in ("/", "/v2/", "/api/health"):
        with urllib.request.urlopen(f"{page}{path}", timeout=120) as answer:
            assert answer.status == 200, path
    with urllib.request.urlopen(f"{page}/ui-settings", timeout=120) as answer:
        assert json.load(answer)["api_url"] == f"{page}/api"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{page}/api/admin/version", timeout=120)
    assert stack.api("/admin/version")
    dask = f"http://127.0.0.1:{stack.dask_port}/status"
    with urllib.request.urlopen(dask, timeout=120) as answer:
        assert answer.status == 200


def test_nights_that_lose_a_part_end_with_the_bytes_of_one_that_lost_none(
    stack: Stack, pictures: Path
) -> None:
    stack.compose("cp", pictures, "prefect-worker:/data/pictures")
    killed = _night_of_deaths(stack)
    assert stack.ended(stack.start("nightly", job_dir="/data/first", **ASKED)) == (
        "CompletedWithFailures",
        REJECTED,
    )
    assert stack.state(killed)["type"] == "CRASHED"
    units = _units(stack, "first")
    assert (units["failed"], units["pending"]) == (0, 0)

    scheduled = _schedule(stack)
    stack.inside("python", "-c", PLANT)
    rerun = stack.ended(stack.start("rerun-failed", job_dir="/data/first"))
    assert rerun == ("CompletedWithFailures", REJECTED)
    assert _units(stack, "first") == units

    assert stack.ended(scheduled()) == ("CompletedWithFailures", REJECTED)
    before = stack.archive("first")
    assert before == stack.archive("undisturbed")
    assert len(before) > units["done"]

    nightly = stack.api("/deployments/name/nightly/upres")["id"]
    by_hand = [{"schedule": {"cron": "30 3 * * *", "timezone": "UTC"}, "active": True}]
    stack.api(f"/deployments/{nightly}/schedules", by_hand)
    stack.compose("down")
    stack.compose("up", "--detach", "--wait", "--no-build")
    assert stack.archive("first") == before
    assert stack.state(killed)["type"] == "CRASHED"
    assert "undisturbed" in stack.inside("upres", "schedule", "--list")
    kept = stack.api("/deployments/name/nightly/upres")["schedules"]
    assert [one["schedule"]["cron"] for one in kept] == ["30 3 * * *"]


def test_a_night_in_a_bucket_whose_store_is_killed_has_the_bytes_of_one_on_a_disk(
    stack: Stack, pictures: Path, tmp_path: Path
) -> None:
    for n in range(FEW):
        (tmp_path / "few").mkdir(exist_ok=True)
        shutil.copy(pictures / f"{n:02}.png", tmp_path / "few")
    stack.compose("cp", tmp_path / "few", "prefect-worker:/data/few")
    made = stack.compose("exec", "-T", "s3", "sh", "-c", MAKE_BUCKET)
    assert "error" not in made.lower(), made
    stack.inside("python", "-c", FILL, "/data/few", "s3://night/photos")

    asked = {"model": ASKED["model"], "tile_px": TILE_PX}
    run = stack.start(
        "nightly",
        src="s3://night/photos",
        job_dir="s3://night/job",
        export_dir="s3://night/out",
        ledger="sqlite:////data/night.sqlite",
        **asked,
    )
    before = stack.units_done()
    wait(lambda: stack.units_done() > before, "the first tiles in the bucket")
    stack.kill("s3")
    here = stack.start(
        "nightly", src="/data/few", job_dir="/data/here", export_dir="/data/here-out", **asked
    )
    assert stack.ended(run)[0] == "Completed"
    assert stack.ended(here)[0] == "Completed"
    hashes = [
        json.loads(stack.inside("python", "-c", HASHES, *places))
        for places in (("s3://night/job/sr.zarr", "s3://night/out"),
                       ("/data/here/sr.zarr", "/data/here-out"))
    ]  # fmt: skip
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > FEW * (SIDE_PX // TILE_PX) ** 2


def _night_of_deaths(stack: Stack) -> str:
    """Start a night, and kill what carries it, one after the other; return its run."""
    # To find them takes seconds on a busy machine, in which a night may end.
    prefect_worker = stack.process("prefect-worker")
    run = stack.start("nightly", job_dir="/data/first", **ASKED)
    wait(stack.units_done, "the first tiles")
    stack.kill("dask-worker")
    so_far = stack.units_done()
    wait(lambda: stack.units_done() > so_far, "tiles of the other worker")
    stack.kill("dask-scheduler")
    wait(lambda: not stack.units_done(), "the end of the scheduler")
    wait(stack.units_done, "tiles after the scheduler is back")
    os.kill(prefect_worker, signal.SIGKILL)
    assert stack.state(run)["type"] == "RUNNING"
    units = _units(stack, "first")
    assert units["done"] > 0
    assert units["pending"] > 0, "the night was over before everything was killed"
    return run


def _units(stack: Stack, job: str) -> dict[str, int]:
    # It says by its exit code that a file was rejected.
    status = f"upres status /data/{job} --json || true"
    said = wait(lambda: stack.tried("sh", "-c", status), "the Prefect worker's container")
    units: dict[str, int] = json.loads(said)["units"]
    return units


def _schedule(stack: Stack) -> Callable[[], str]:
    """Schedule a night soon; return what waits for its run to be made."""
    asked = ["--model", ASKED["model"], "--tile", TILE_PX, "--timezone", "UTC", "--json"]
    # The minute that is not over yet is cut off. Where the command takes longer than what is left,
    # the night would be that of tomorrow.
    for ahead_s in (90, 150, 300, PATIENCE_S):
        at = datetime.now(UTC) + timedelta(seconds=ahead_s)
        words = [ASKED["src"], "/data/undisturbed", "--at", f"{at:%H:%M}", *asked]
        job = json.loads(stack.inside("upres", "schedule", *words))
        if datetime.fromisoformat(job["next"]) < at:
            break
    name = job["name"]
    deployment = stack.api(f"/deployments/name/nightly/{name}")["id"]
    assert stack.api(f"/deployments/{deployment}")["parameters"]["cluster"].startswith("tls://")

    def run() -> str:
        runs = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        made = wait(lambda: stack.api("/flow_runs/filter", runs), "the run of the schedule")
        assert made[0]["auto_scheduled"]
        return str(made[0]["id"])

    return run
