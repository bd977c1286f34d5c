"""Workers on machines that are reached by SSH, with the user's own ``ssh`` and its configuration.

The scheduler runs in this process. A machine that cannot be reached is reported, and the others
compute; it is tried again for as long as the run goes on.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.clusters.started import (  # isort: skip
    client_of,
    own_session,
    scheduler_of,
    watching,
)

from pipeline.compute.clusters.remote import READY, Order
from pipeline.compute.clusters.security import in_texts
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client, Security

    from pipeline.compute.clusters.description import Ssh

logger = logging.getLogger(__name__)

_CONNECT_S = 8
_READY_S = 60.0
_TURN_S = 0.2
_LOOK_S = 1.0
_AGAIN_S = 30.0
_END_S = 5.0


@contextmanager
def open_ssh(description: Ssh) -> Iterator[Client]:
    """Yield a client of workers on all hosts that can be reached.

    Raises:
        UsageError: if there is no ``ssh`` here.
        ClusterError: if none of the hosts can be reached, or has upres.
    """
    if shutil.which("ssh") is None:
        raise description.wrong(
            "kind ssh needs the command ssh, which is not on this machine; install OpenSSH's client"
        )
    with ExitStack() as opened:
        security = opened.enter_context(own_session(description))
        host = description.scheduler_host
        cluster = opened.enter_context(scheduler_of(description, security, host=host))
        hosts = [
            _Host(name, description, scheduler=cluster.scheduler_address, security=security)
            for name in description.hosts
        ]
        for one in hosts:
            opened.callback(one.end)
            one.start()
        _await_hosts(description, hosts)
        with client_of(cluster, security) as client, _tried_again(description, hosts):
            yield client


class _Host:
    """One machine: the ``ssh`` that holds its workers."""

    def __init__(self, name: str, description: Ssh, *, scheduler: str, security: Security) -> None:
        self.name = name
        self.missing = ""
        """Why it is not there; "" while it is, or may be."""
        self.ready = False
        self._order = Order(
            scheduler=scheduler,
            host=name,
            tls=in_texts(security),
            workers=description.workers,
            threads=description.threads,
            gpus=description.gpus,
            memory=description.memory,
            local_directory=description.local_directory,
            interface=description.interface,
            environment=description.environment,
        )
        self._words = _words(description, name)
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []

    def start(self) -> None:
        """Begin to connect."""
        self.missing, self.ready, self._said = "", False, []
        pipe = subprocess.PIPE
        self._process = process = subprocess.Popen(
            self._words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal is for the command alone.
        )
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(self._order.to_line())
                process.stdin.flush()
        for stream, hear in ((process.stdout, self._hear), (process.stderr, self._said.append)):
            threading.Thread(target=_each_line, args=(stream, hear), daemon=True).start()

    def look(self) -> None:
        """Find out whether the workers are there."""
        if self._process is not None and self._process.poll() is not None and not self.missing:
            self.ready, self.missing = False, self._reason()

    def end(self) -> None:
        """End the workers, by the end of their stdin."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _hear(self, line: str) -> None:
        self.ready = self.ready or line == READY

    def _reason(self) -> str:
        time.sleep(_TURN_S)  # Its last words may still be on their way.
        lines = [line for line in self._said if line]
        return (
            lines[-1] if lines else f"ssh ended with {self._process and self._process.returncode}"
        )


def _each_line(stream: IO[str], hear: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            hear(line.strip())


def _words(description: Ssh, host: str) -> list[str]:
    """Return the command that starts the workers of a host."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}"]
    options += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    if description.known_hosts:
        options += ["-o", f"UserKnownHostsFile={description.known_hosts}"]
    for flag, value in (
        ("-p", description.port),
        ("-l", description.username),
        ("-i", description.key_file),
    ):
        options += [flag, str(value)] if value else []
    # The environment does not travel.
    variables = [f"{name}={value}" for name, value in description.environment.items()]
    python = description.python or sys.executable
    remote = ["env", *variables, python, "-m", "pipeline.compute.clusters.remote"]
    return ["ssh", *options, "--", host, f"exec {shlex.join(remote)}"]


def _await_hosts(description: Ssh, hosts: list[_Host]) -> None:
    """Wait until each host has its workers, or is known to be missing; report those.

    Raises:
        ClusterError: if all are.
    """
    deadline = time.monotonic() + _READY_S
    while waiting := [host for host in hosts if not (host.ready or host.missing)]:
        for host in waiting:
            host.look()
            if time.monotonic() > deadline and not host.ready:
                host.end()
                host.missing = f"no workers within {_READY_S:.0f} s"
        time.sleep(_TURN_S)
    missing = [f"{host.name} ({host.missing})" for host in hosts if host.missing]
    there = [host.name for host in hosts if host.ready]
    if not there:
        raise ClusterError(
            f"cluster {description.name!r}: no host can be used: {'; '.join(missing)}; check that "
            f"`ssh {hosts[0].name}` works without a password and that upres is installed there"
        )
    if missing:
        logger.warning(
            "cluster %r: missing is %s; %s compute%s",
            description.name,
            "; ".join(missing),
            ", ".join(there),
            "s" * (len(there) == 1),
        )


@contextmanager
def _tried_again(description: Ssh, hosts: list[_Host]) -> Iterator[None]:
    """Within the block, report hosts that are lost, and connect again to those that come back."""
    tried = dict.fromkeys(hosts, time.monotonic())

    def look() -> None:
        for host in hosts:
            was_ready = host.ready
            host.look()
            if was_ready and host.missing:
                logger.warning(
                    "cluster %r: %s is lost (%s); it is tried again every %.0f s",
                    description.name,
                    host.name,
                    host.missing,
                    _AGAIN_S,
                )
            if host.missing and time.monotonic() - tried[host] > _AGAIN_S:
                tried[host] = time.monotonic()
                host.start()

    with watching(look, name="upres-ssh", every_s=_LOOK_S):
        yield
