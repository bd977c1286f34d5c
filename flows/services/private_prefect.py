"""Prefect for one command: nothing sent out, nothing read or left elsewhere, nobody else let in."""

from __future__ import annotations

import os
import secrets
from contextlib import chdir, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOPBACK = "127.0.0.1,localhost"

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    # A temporary server migrates its database first, which takes 10 to 20 s on a small machine,
    # and several times as long where other programs have its cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
}

NO_PAGES = {"PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
"""What a server is told that ends with its command: what pages offer costs a second to start."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy")


@contextmanager
def own_prefect(home: Path) -> Iterator[None]:
    """Let Prefect start a temporary server for the block, whose database is in `home`.

    What the user has set for a server of their own is left aside, be it in variables or in files
    of the working folder: the demonstration needs none, and leaves nothing in one. The server
    listens on the loopback interface, which no proxy leads to and all accounts of the machine can
    reach: it answers those alone who know the password of this run. To be entered before Prefect
    is first imported; paths that are used inside must be absolute.
    """
    settle(home, password=f"upres:{secrets.token_urlsafe(32)}")
    os.environ.update(NO_PAGES, PREFECT_LOGGING_LEVEL="WARNING")
    _silence_pools(home)
    # Prefect reads `.env`, `prefect.toml` and `pyproject.toml` wherever it is started.
    with chdir(home):
        yield


def settle(home: Path, *, password: str) -> None:
    """Let this process, and those that it starts, have a Prefect of its own in `home`.

    `password` is what the server asks for, and what its clients say. It is passed on in the
    environment, which only this account can read, and never in an argument.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in list(os.environ):
        if name.upper().startswith("PREFECT_") or name.lower() in _PROXIES:
            del os.environ[name]
    os.environ.update(
        QUIET,
        PREFECT_HOME=str(home.resolve()),
        PREFECT_SERVER_API_AUTH_STRING=password,
        PREFECT_API_AUTH_STRING=password,
        NO_PROXY=_LOOPBACK,
        no_proxy=_LOOPBACK,
    )


def _silence_pools(home: Path) -> None:
    """Let a server that is ended while it asks its database do so without a traceback.

    SQLAlchemy would print it to the terminal, for a connection that nobody needs any more. Prefect
    takes a `logging.yml` in its home instead of its own file, which is found without an import.
    """
    prefect = find_spec("prefect")
    assert prefect is not None
    assert prefect.origin is not None
    own = (Path(prefect.origin).parent / "logging" / "logging.yml").read_text(encoding="utf-8")
    silent = "loggers:\n  sqlalchemy.pool:\n    level: CRITICAL\n"
    (home / "logging.yml").write_text(own.replace("loggers:\n", silent, 1), encoding="utf-8")
