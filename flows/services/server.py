"""The Prefect server of one's own: where it keeps its things, how it starts, how it is found.

What belongs here: which server a command speaks to, and the process of the one that `upres serve`
starts. Not: what runs on it. A server that PREFECT_API_URL names is used as it is; nothing is
started then, and none of its settings is changed. Prefect is not imported here: its settings are
read when it first is, so they are settled before.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from flows.services.private_prefect import NO_PAGES, QUIET, settle
from pipeline.errors import JobBusyError, UpresError
from pipeline.storage.locks import hold

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 4200
"""Where Prefect's pages are on most machines."""

START_S = 180.0
"""Seconds until a server must answer: it makes its database at first, on a slow disk too."""

_STOP_S = 15.0
_MOST_OF_VERSION = 100


class ServerError(UpresError):
    """There is no Prefect server to speak to, or none could be started."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers; `process` is that of one's own, None of one that others started."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def page(self) -> str:
        """Return the address of its pages."""
        return self.url.removesuffix("/api")


def home() -> Path:
    """Return the folder that the server of one's own keeps its things in: UPRES_HOME, if set."""
    if named := os.environ.get("UPRES_HOME"):
        return Path(named).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "upres"


def configured() -> str:
    """Return the address of the server that PREFECT_API_URL names, "" for none."""
    return os.environ.get("PREFECT_API_URL", "")


def password_file() -> Path:
    """Return the file of the password, which its owner alone can read."""
    return home() / "password"


@contextmanager
def server_at_hand() -> Iterator[Server]:
    """Yield the server that is configured or that runs; else start one's own for the block.

    Prefect, once it is imported, speaks to that one. What is written there stays; nothing runs
    before `upres serve` does.

    Raises:
        ServerError: if there is none, and none starts.
    """
    if configured():
        yield _configured_server()
        return
    with _alone("a command"):
        deadline = time.monotonic() + START_S
        while (url := _address()) is None and _is_served() and time.monotonic() < deadline:
            time.sleep(0.5)  # It starts just now.
        if url is not None:
            _settle(url)
            yield Server(url)
            return
        with _own_server(_free_port(), NO_PAGES) as server:
            yield server


@contextmanager
def serving_server(port: int) -> Iterator[Server]:
    """Yield the server that is configured; else start one's own, which ends with the block.

    Its database stays in `home()`. It listens on 127.0.0.1 alone, and answers whoever knows its
    password. Should this process be killed, it ends by itself.

    Raises:
        ServerError: if it does not start, or another `upres serve` runs it already.
    """
    if configured():
        _import_this_copy()
        yield _configured_server()
        return
    with ExitStack() as opened:
        with _alone("upres serve"):  # A command may have started the server for a moment.
            server = opened.enter_context(_own_server(port, {}))
        yield server


def _configured_server() -> Server:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _check_configured()
    return Server(configured())


def _import_this_copy() -> None:
    """Let the processes that are started from here import this copy of upres, and no other."""
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])


@contextmanager
def _alone(command: str) -> Iterator[None]:
    """Wait until no other command looks for the server, starts it, or uses it for a moment.

    Raises:
        ServerError: if that takes too long.
    """
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + START_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(hold(home() / "commands.lock", home(), command))
                break
            except JobBusyError as error:
                if time.monotonic() > deadline:
                    raise ServerError(str(error)) from error
            time.sleep(0.2)
        yield


@contextmanager
def _own_server(port: int, settings: dict[str, str]) -> Iterator[Server]:
    _import_this_copy()
    try:
        with hold(home() / "serve.lock", home(), "upres serve"):
            _settle(url := f"http://127.0.0.1:{port}/api")
            os.environ.update(settings)
            yield from _started(url, port)
    except JobBusyError as error:
        raise ServerError(f"{error}; one `upres serve` is enough for all jobs") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _started(url: str, port: int) -> Iterator[Server]:
    _check_free(port)
    log = home() / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.services.server_process", str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # Prefect reads settings wherever it is started.
            cwd=home(),
            # Ctrl-C in a terminal goes to all its processes: this one is to end last.
            start_new_session=True,
        )
    try:
        _await(process, url, log)
        _address_file().write_text(json.dumps({"url": url}))
        yield Server(url, process)
    finally:
        _address_file().unlink(missing_ok=True)
        _end(process)


def _settle(url: str) -> None:
    settle(home() / "prefect", password=f"upres:{_password()}")
    os.environ.update(
        PREFECT_API_URL=url,
        UPRES_HOME=str(home()),  # It may be named from the working folder, which changes.
        # A night outlives a restart of the server; in memory its slot would be lost with it.
        PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect.server.concurrency.lease_storage.filesystem",
        PREFECT_SERVER_UI_STATIC_DIRECTORY=str(home() / "prefect" / "ui"),
    )


def _password() -> str:
    """Return the password of one's own server; it is made once, and is nobody's default."""
    file = password_file()
    if not file.exists():
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):  # Another command made it meanwhile.
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as output:
                output.write(f"{secrets.token_urlsafe(32)}\n")
    if password := file.read_text().strip():
        return password
    raise ServerError(f"{file} is empty; remove it, and start `upres serve` again")


def _address_file() -> Path:
    return home() / "server.json"


def _address() -> str | None:
    """Return the address of one's own server, None where it does not answer."""
    try:
        url = str(json.loads(_address_file().read_text())["url"])
    except (OSError, ValueError, KeyError):
        return None
    # The password goes to nobody who took the port of an `upres serve` that was killed.
    return url if _is_served() and _answers(url) else None


def _is_served() -> bool:
    """Return whether an `upres serve` is there, even if its server does not answer yet."""
    lock = home() / "serve.lock"
    if not lock.exists():
        return False
    try:
        with hold(lock, home(), "a look at who serves"):
            return False
    except JobBusyError:
        return True


def _answers(url: str) -> bool:
    """Return whether a server is there that knows the password."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = _question(url, f"upres:{_password()}")
    try:
        with opener.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except (OSError, HTTPException):
        return False


def _check_configured() -> None:
    """Make sure that the configured server answers.

    Raises:
        ServerError: if it does not.
    """
    url, key = configured().rstrip("/"), os.environ.get("PREFECT_API_KEY")
    try:
        request = _question(url, os.environ.get("PREFECT_API_AUTH_STRING", ""))
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=15) as answer:
            version = answer.read(_MOST_OF_VERSION)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise ServerError(
                f"the server at PREFECT_API_URL, {url}, asks for a password; set "
                "PREFECT_API_AUTH_STRING to USER:PASSWORD"
            ) from error
        if error.code == 404 and key:  # Prefect's cloud has no such page.
            return
        if error.code == 404:
            raise ServerError(_not_prefect(url)) from error
        raise ServerError(f"PREFECT_API_URL is {url}, which answers {error}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise ServerError(
            f"PREFECT_API_URL is {url}, and no server answers there ({error}); start it, or unset "
            "the variable for `upres serve` to start its own"
        ) from error
    # Beside its API, a server answers every address with the page of its UI.
    if re.fullmatch(rb'"[0-9][^"]*"', version) is None:
        raise ServerError(_not_prefect(url))


def _not_prefect(url: str) -> str:
    return (
        f"PREFECT_API_URL is {url}, where no Prefect server shows its version; the address of a "
        "server ends in /api, such as http://127.0.0.1:4200/api"
    )


def _question(url: str, password: str) -> urllib.request.Request:
    request = urllib.request.Request(f"{url}/admin/version")
    if password:
        token = base64.b64encode(password.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return request


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}); name another one by "
                "--port, or the server that is there by PREFECT_API_URL"
            ) from error


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is not None:
            raise ServerError(f"Prefect's server ended with code {process.returncode}; see {log}")
        if time.monotonic() > deadline:
            raise ServerError(f"Prefect's server did not answer in {START_S:.0f} s; see {log}")
        time.sleep(0.25)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server: it does so itself once nobody can write to its stdin."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
