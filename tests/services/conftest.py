"""What tests with real servers share: Prefect, PostgreSQL, and an object store with workers."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import uuid
import warnings
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.ports import free_port
from tests.services.databases import postgresql_server, put_new_database
from tests.services.named_store import known_to
from tests.services.nights import wait_for
from tests.services.stores import BUCKET, Bucket, SeaweedFS, environment, in_front_of
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from tests.conftest import SavePicture, TakePhoto
    from tests.services.stores import Front


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Connections that Prefect leaves to Python end with the module, not in a test of another."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, psutil.Process]]:
    """A server of these tests' own, on the loopback interface: its API and pages, and no more.

    It makes no runs of schedules, so nothing changes there but what a test changes. Tests of other
    modules have left theirs there.
    """
    port = free_port()
    home = tmp_path_factory.mktemp("prefect")
    put_new_database(home)
    url = f"http://127.0.0.1:{port}/api"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,  # Where the pages look for the server.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Whoever keeps a block here registers its kind: that of all of Prefect's takes a second.
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "DO_NOT_TRACK": "1",
    }
    words = ["server", "start", "--no-services", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], stdout=log, stderr=log, env=environment
        )
    try:
        wait_for(lambda: _healthy(url), server)
        yield url, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.send_signal(signal.SIGCONT)
        server.wait(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def api(prefect_server: tuple[str, psutil.Process]) -> Iterator[str]:
    """Let all that Prefect does in these tests go to that server."""
    url, process = prefect_server
    process.resume()
    with temporary_settings(updates={PREFECT_API_URL: url}):
        yield url
        _tell_all()
    # It would compute for half a second a minute, for nobody, until the next module that asks it.
    process.suspend()


def _tell_all() -> None:
    """Let this process tell its server what it has not told yet.

    Prefect asks a server about each event, and one that is gone for a minute. Whoever waits for
    the end of that would wait for as many minutes as there are events.
    """
    # Not above: they load what those who collect these tests would wait for.
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in EventsWorker, APILogWorker:
        worker.drain_all(timeout=PATIENCE_S)


def _healthy(url: str) -> bool:
    try:
        return (
            httpx.get(
                f"{url}/health", trust_env=False, verify=False, timeout=PATIENCE_S
            ).status_code
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


@pytest.fixture(scope="session")
def named_cluster(client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run in another process is asked, for the session's workers: others take seconds."""
    from pipeline.compute.cluster import address_of, key_of
    from pipeline.compute.clusters.security import in_files

    folder = tmp_path_factory.mktemp("clusters")
    key = key_of(address := address_of(client))
    assert key is not None
    in_files(key, folder)
    file = folder / "clusters.toml"
    file.write_text(
        f'[session]\nkind = "scheduler"\naddress = "{address}"\ntls_ca_file = "ca_file.pem"\n'
        'tls_cert = "cert.pem"\ntls_key = "key.pem"\n'
    )
    return {"cluster": "session", "clusters": str(file)}


@pytest.fixture(scope="module")
def store_workers(front: Front, client: Client) -> Iterator[tuple[str, str]]:
    """The session's workers, in whose environment the store is named for a module's tests."""
    from pipeline.compute.cluster import address_of

    with known_to(client, environment(front.endpoint)):
        yield "--cluster", address_of(client)
