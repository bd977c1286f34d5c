"""What tests with real servers share: Prefect, PostgreSQL, and an object store with workers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import uuid
import warnings
from typing import TYPE_CHECKING

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.ports import free_port
from tests.services.databases import postgresql_server, put_new_database
from tests.services.nights import wait_for
from tests.services.stores import BUCKET, Bucket, SeaweedFS, environment, in_front_of
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto
    from tests.services.stores import Front


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Connections that Prefect leaves to Python end with the module, not in a test of another."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this test's own, on the loopback interface."""
    port = free_port()
    home = tmp_path_factory.mktemp("prefect")
    put_new_database(home)
    url = f"http://127.0.0.1:{port}/api"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,  # Where the pages look for the server.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], stdout=log, stderr=log, env=environment
        )
    try:
        wait_for(lambda: _healthy(url), server)
        with temporary_settings(updates={PREFECT_API_URL: url}):
            yield url
            _tell_all()
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    """Let all that Prefect does in these tests go to a server in this process."""
    # Not above: it loads the whole server, for which those who collect these tests would wait.
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


def _tell_all() -> None:
    """Let this process tell its server what it has not told yet.

    Prefect asks a server about each event, and one that is gone for a minute. Whoever waits for
    the end of that, as the harness does, would wait for as many minutes as there are events.
    """
    # Not above: they load what those who collect these tests would wait for.
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in EventsWorker, APILogWorker:
        worker.drain_all(timeout=PATIENCE_S)


def _healthy(url: str) -> bool:
    try:
        return (
            httpx.get(f"{url}/health", trust_env=False, timeout=PATIENCE_S).status_code
            == httpx.codes.OK
        )
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server of these tests' own; yields the URL of its database."""
    with postgresql_server() as url:
        yield url


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A store of these tests' own."""
    store = SeaweedFS(tmp_path_factory.mktemp("weed"))
    store.start()
    store.make_bucket(BUCKET)
    try:
        yield store
    finally:
        store.kill()


@pytest.fixture(scope="module")
def front(seaweed: SeaweedFS) -> Iterator[Front]:
    """A server in front of the store, which the environment names."""
    with in_front_of(seaweed) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(found.endpoint).items():
            patch.setenv(name, value)
        yield found


@pytest.fixture
def bucket(front: Front) -> Bucket:
    """A place of a test's own in the store, which has no faults until some are asked for."""
    front.fault = lambda _number, _method, _path: ""
    return Bucket(f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def pictures(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """A folder of pictures for a store: large ones, and ones that share a stack."""
    folder = tmp_path / "in"
    save(folder / "a.png", photo(70, 90))
    save(folder / "trips" / "ü b#1%.png", photo(40, 70, at=50))
    for n in range(17):
        save(folder / "small" / f"{n:02}.png", photo(16, 20, at=n))
    return folder


@pytest.fixture(scope="module")
def store_workers(front: Front) -> Iterator[tuple[str, str]]:
    """Two workers that were started where the environment names the store."""
    from pipeline.compute.cluster import ClusterSettings, address_of, connect

    with connect(ClusterSettings(workers=2)) as client:
        yield "--cluster", address_of(client)
