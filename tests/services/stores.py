"""A real object store for tests, and a server in front of it that fails as networks do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.storage.store import BucketPlace, place_of
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUCKET = "upres-test"
KEY_ID, SECRET = "AKIAOFTHISTEST", "a-secret-of-this-test"


class Bucket:
    """What one test has of a bucket."""

    def __init__(self, key: str) -> None:
        self.place = BucketPlace("s3", BUCKET, key)

    def __truediv__(self, key: str) -> BucketPlace:
        return self.place / key

    def put(self, folder: Path, key: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                (self / key / str(path.relative_to(folder))).write_bytes(path.read_bytes())


def contents(place: Any) -> dict[str, bytes]:
    """Everything below a place, by its name there."""
    place = place_of(str(place))
    if isinstance(place, Path):
        return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    return {o.key[len(place.key) + 1 :]: place.of_bucket.get(o.key) for o in place.below()}


def pixels(place: Any) -> dict[str, bytes]:
    """Everything below a place but what says when and from where it came."""
    return {name: one for name, one in contents(place).items() if not name.endswith(".json")}


def environment(endpoint: str) -> dict[str, str]:
    """What a user sets to reach the store."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


class SeaweedFS:
    """One server on the loopback interface, whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, *self._others = (free_port() for _ in range(4))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        weed = shutil.which("weed", path=os.pathsep.join((_scripts(), os.environ["PATH"])))
        if weed is None:
            pytest.skip("SeaweedFS is not installed")
        master, volume, filer = self._others
        words = [
            weed, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-master.electionTimeout=1s",
            "-master.heartbeatInterval=100ms", f"-master.port={master}", f"-volume.port={volume}",
            "-filer", f"-filer.port={filer}", f"-filer.localSocket={self.folder}/f.sock",
            "-s3", f"-s3.port={self.port}", f"-s3.localSocket={self.folder}/s.sock",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket=false",
            "-volume.max=0", "-volume.preStopSeconds=1", "-master.volumeSizeLimitMB=200",
        ]  # fmt: skip
        env = os.environ | {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "GOMEMLIMIT": "400MiB",
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, env=env)
        process = self._process
        until(lambda: _answers(self.port) or process.poll() is not None, every_s=0.1)
        assert process.poll() is None, (self.folder / "log").read_text()[-2000:]

    def make_bucket(self, name: str) -> None:
        """Make a bucket, by the door that asks for no credentials."""
        # The door is open before what is behind it is there.
        until(lambda: self._makes(name), self.folder / "log", every_s=0.1)

    def _makes(self, name: str) -> bool:
        connection = HTTPConnection("127.0.0.1", self._others[2], timeout=60)
        connection.request("POST", f"/buckets/{name}/")
        status = connection.getresponse().status
        connection.close()
        return status < 300

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _scripts() -> str:
    return str(Path(sys.executable).parent)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


class _Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    _behind: HTTPConnection | None = None

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        front = self.server.front  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = front.next_fault(self.command, self.path)
        if fault.isdecimal():
            code = {"503": "SlowDown", "403": "AccessDenied"}[fault]
            self._answer(int(fault), {}, f"<Error><Code>{code}</Code></Error>".encode())
        elif fault == "reset":
            self._cut()
        elif fault == "hang":
            front.released.wait(front.hang_s)
            self._cut()
        else:
            self._forward(body, half=fault == "half")

    def _forward(self, body: bytes, *, half: bool) -> None:
        front = self.server.front  # type: ignore[attr-defined]
        try:
            answer, content = self._asked(front.behind, body)
        except (OSError, HTTPException):
            self._cut()
            return
        headers = {
            k: v
            for k, v in answer.getheaders()
            if k.lower() not in ("transfer-encoding", "connection", "content-length", "date")
        }
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        if half and len(content) > 1:
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self._cut()
            return
        self._answer(answer.status, headers, content, length=length)

    def _asked(self, port: int, body: bytes) -> tuple[HTTPResponse, bytes]:
        """Return what the store answers, on a connection that is kept for the next request."""
        kept, self._behind = self._behind, None
        behind = kept or HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                behind.putheader(name, value)
            behind.endheaders(body or None)
            answer = behind.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            behind.close()
            if kept:  # The store may have closed it meanwhile.
                return self._asked(port, body)
            raise
        self._behind = behind
        return answer, content

    def finish(self) -> None:
        if self._behind is not None:
            self._behind.close()
        super().finish()

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, length: str | None = None
    ) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815


class Front:
    """A server in front of a store: it counts requests, and fails those that it is told to."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.requests: Counter[str] = Counter()
        """By method; listings are counted as LIST."""
        self.failed = 0
        self.hang_s = PATIENCE_S
        self.released = threading.Event()
        self.fault: Callable[[int, str, str], str] = lambda _number, _method, _path: ""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Forwarding)
        self._server.daemon_threads = True
        self._server.front = self  # type: ignore[attr-defined]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next_fault(self, method: str, path: str) -> str:
        """Count a request and say how it is to fail, "" for not at all."""
        kind = "LIST" if "list-type=2" in path else method
        with self._lock:
            self.requests[kind] += 1
            number = self.requests.total()
        fault = self.fault(number, kind, path)  # It may send requests of its own.
        self.failed += bool(fault)
        return fault

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def in_front_of(store: SeaweedFS) -> Iterator[Front]:
    """Yield a server in front of the store, without faults until some are asked for."""
    front = Front(store.port)
    thread = threading.Thread(target=front.run, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.close()
        thread.join(timeout=60)


def unread_below(part: str) -> Callable[[int, str, str], str]:
    """Return what cuts every request for a picture below a name, while it can be listed."""
    return lambda _number, method, path: (
        "reset" if method == "GET" and part in path and path.endswith(".png") else ""
    )


def away_from(part: str, *, seconds: float) -> Callable[[int, str, str], str]:
    """Return what cuts every request for some seconds, from when pixels are put below a name.

    A machine that pauses meanwhile sends few requests in that time: so many are cut in any case
    that who asks again now and then has lost its patience.
    """
    begins: list[float] = []
    cut = count()

    def fault(_number: int, method: str, path: str) -> str:
        if not begins and method == "PUT" and part in path and "/c" in path:
            begins.append(time.monotonic())
        if not begins:
            return ""
        return "reset" if next(cut) < 40 or time.monotonic() - begins[0] < seconds else ""

    return fault


class HeldBack:
    """Lets some requests of a kind pass, slowly, and holds all later ones until they are released.

    So a run is in its midst for as long as a test needs it there, however slow the machine is.
    """

    def __init__(self, passing: int, kind: Callable[[str, str], bool]) -> None:
        self.begun = 0
        self.released = threading.Event()
        self._passing, self._kind = passing, kind
        self._lock = threading.Lock()

    def __call__(self, _number: int, method: str, path: str) -> str:
        """Return "" for a request that is to pass; one that was held is cut in the end."""
        if not self._kind(method, path):
            return ""
        with self._lock:
            self.begun += 1
            passes = self.begun <= self._passing
        if passes:
            time.sleep(0.2)
            return ""
        self.released.wait(PATIENCE_S)
        return "reset"

    def wait_for(self, begun: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until so many requests of a process were begun; it must not end before."""
        until(lambda: self.begun >= begun or process.poll() is not None, every_s=0.02)
        assert process.poll() is None, process.communicate()[1][-2000:]


def every(number: int, *faults: str) -> Callable[[int, str, str], str]:
    """Return what fails every so many requests, in one way after the other."""

    def fault(count: int, _method: str, _path: str) -> str:
        return faults[count // number % len(faults)] if count % number == 0 else ""

    return fault
