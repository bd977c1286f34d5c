"""What a user writes of a cluster: the keys of each kind, checked before anything is started.

What belongs here: values. How the workers of a kind are started is in the file of that kind, which
is imported when a cluster is opened: reading a description imports nothing heavy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from distributed import Client

_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:[a-z]+://)?\S+:([0-9]{1,5})")
_WALLTIME = re.compile(r"[0-9]{1,4}(:[0-9]{2}){1,2}|[0-9]{1,3}-[0-9]{1,2}(:[0-9]{2}){0,2}")


def is_address(text: str) -> bool:
    """Return whether a text can be the address of a scheduler: it names a host and a port.

    A scheduler in this very process has another one, which Dask makes up.
    """
    if text.startswith("inproc://"):
        return True
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[1]) < 2**16


def _is_host(name: object) -> bool:
    """Return whether ``ssh`` would take a name as that of a machine, not as one of its options."""
    return isinstance(name, str) and re.fullmatch(r"[^\s-]\S*", name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What all kinds of clusters have in common."""

    KIND: ClassVar[str] = ""
    COUNTED: ClassVar[bool] = False
    """Whether ``--workers`` says how many workers a run starts."""

    name: str
    tls_ca_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        self.check()

    def opened(self, workers: int | None) -> AbstractContextManager[Client]:
        """Return what opens the cluster: a context that yields a client of its workers.

        `workers` is how many are asked for, where they are `COUNTED`.
        """
        raise self.wrong(f"kind {self.KIND} cannot be opened")

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: then.
        """
        tls = {k: getattr(self, k) for k in ("tls_ca_file", "tls_cert", "tls_key")}
        lacking = [key for key, value in tls.items() if not value]
        if 0 < len(lacking) < len(tls):
            raise self.wrong(f"{lacking[0]} is missing; TLS needs {', '.join(tls)}")
        self.check_files(*tls)

    def check_files(self, *keys: str) -> None:
        """Refuse files that are not there.

        Raises:
            UsageError: then.
        """
        for key in keys:
            value = getattr(self, key)
            if value and not Path(value).expanduser().is_file():
                raise self.wrong(f"{key} is {value!r}, which is not a file")

    def check_positive(self, *keys: str) -> None:
        """Refuse a count below 1.

        Raises:
            UsageError: then.
        """
        for key in keys:
            if getattr(self, key) < 1:
                raise self.wrong(f"{key} is {getattr(self, key)}, expected at least 1")

    def wrong(self, why: str) -> UsageError:
        """Return the error of a value that cannot be."""
        return UsageError(f"cluster {self.name!r}: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler(Description):
    """A Dask scheduler that runs already, with workers of its own."""

    KIND: ClassVar[str] = "scheduler"

    address: str

    def opened(self, workers: int | None) -> AbstractContextManager[Client]:
        """Return what connects to the scheduler, with its certificates where it has some."""
        from pipeline.compute.cluster import at_address
        from pipeline.compute.clusters.security import security_of

        return at_address(self.address, security_of(self))

    def check(self) -> None:
        """Refuse an address without a port."""
        Description.check(self)
        if not is_address(self.address):
            raise self.wrong(f"address is {self.address!r}, expected such as tls://HOST:8786")
        if self.tls_cert and not self.address.startswith("tls://"):
            raise self.wrong(f"address is {self.address!r}; with TLS it begins with tls://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Description):
    """Workers that a run starts elsewhere, and what each of them has."""

    threads: int = 0
    """Threads that compute in each worker; 0 means what its machine or its queue job has."""
    memory: str = ""
    """Memory of each worker, such as 8GB."""
    local_directory: str = ""
    """Folder of the worker's temporary files, on its own disk."""
    python: str = ""
    """The Python there; the same path as here where it is not given."""
    interface: str = ""
    """Network interface that scheduler and workers meet on, such as ib0."""
    environment: dict[str, str] = field(default_factory=dict)
    gpus: int = 0
    """GPUs of a machine or queue job: one worker is started for each."""

    def check(self) -> None:
        """Refuse counts and sizes that cannot be."""
        Description.check(self)
        for key in ("threads", "gpus"):
            if getattr(self, key) < 0:
                raise self.wrong(f"{key} is {getattr(self, key)}, expected 0 or more")
        if self.memory and not _MEMORY.fullmatch(self.memory):
            raise self.wrong(f"memory is {self.memory!r}, expected such as 8GB")
        for name, value in self.environment.items():
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or not isinstance(value, str):
                raise self.wrong(f'environment has {name!r}: {value!r}, expected NAME = "text"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh(Started):
    """Machines that are reached by SSH."""

    KIND: ClassVar[str] = "ssh"

    hosts: list[str]
    workers: int = 0
    """Workers on each host; 0 means one for each core, at most eight."""
    username: str = ""
    port: int = 0
    """0 means what ssh itself has, by its own configuration."""
    key_file: str = ""
    known_hosts: str = ""
    scheduler_host: str = ""
    """Address of this machine that the hosts can connect to."""

    def opened(self, workers: int | None) -> AbstractContextManager[Client]:
        """Return what starts the workers over SSH."""
        from pipeline.compute.clusters.ssh import open_ssh

        return open_ssh(self)

    def check(self) -> None:
        """Refuse an empty or doubled list of hosts, and files that are not there."""
        Started.check(self)
        if not self.hosts or not all(map(_is_host, self.hosts)):
            raise self.wrong(f"hosts is {self.hosts!r}, expected names of machines")
        if len(set(self.hosts)) < len(self.hosts):
            raise self.wrong(f"hosts names a machine twice: {', '.join(self.hosts)}")
        if self.workers < 0:
            raise self.wrong(f"workers is {self.workers}, expected 0 or more")
        if not 0 <= self.port < 2**16:
            raise self.wrong(f"port is {self.port}, expected 0 to {2**16 - 1}")
        self.check_files("key_file", "known_hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Started):
    """Jobs of a batch queue, each of which runs one worker."""

    COUNTED: ClassVar[bool] = True

    workers: int = 1
    """Workers in all; `--workers` overrides it."""
    queue: str = ""
    account: str = ""
    walltime: str = ""
    directives: list[str] = field(default_factory=list)
    """Further options of the queue job, as its system has them."""
    prologue: list[str] = field(default_factory=list)
    """Shell commands that a queue job runs first, such as `module load python`."""
    shared_directory: str = ""
    """Folder that this machine and the workers' see under one path; for keys and logs."""
    wait_s: int = 3600
    """How long to wait until the queue starts a worker."""

    def opened(self, workers: int | None) -> AbstractContextManager[Client]:
        """Return what submits the queue jobs."""
        from pipeline.compute.clusters.queue import open_queue

        return open_queue(self, workers=workers)

    def check(self) -> None:
        """Refuse what no queue could take."""
        Started.check(self)
        self.check_positive("workers", "wait_s")
        if not self.memory:
            raise self.wrong('memory is missing; a queue job asks for it, such as memory = "8GB"')
        if self.gpus > 1:
            raise self.wrong(
                f"gpus is {self.gpus}; each queue job has one worker and one GPU, so set gpus = 1 "
                "and ask for more workers"
            )
        if self.walltime and not _WALLTIME.fullmatch(self.walltime):
            raise self.wrong(f"walltime is {self.walltime!r}, expected such as 08:00:00")
        for key in ("directives", "prologue"):
            lines = getattr(self, key)
            if not all(isinstance(line, str) and line.isprintable() for line in lines):
                raise self.wrong(f"{key} is {lines!r}, expected a list of lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm(Queue):
    """Jobs of SLURM."""

    KIND: ClassVar[str] = "slurm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbs(Queue):
    """Jobs of PBS."""

    KIND: ClassVar[str] = "pbs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lsf(Queue):
    """Jobs of LSF."""

    KIND: ClassVar[str] = "lsf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sge(Queue):
    """Jobs of Grid Engine."""

    KIND: ClassVar[str] = "sge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes(Started):
    """Pods of Kubernetes."""

    KIND: ClassVar[str] = "kubernetes"
    COUNTED: ClassVar[bool] = True

    image: str
    """Image of the container, with upres in it."""
    workers: int = 1
    """Workers in all; `--workers` overrides it."""
    namespace: str = ""
    wait_s: int = 3600
    """How long to wait until a worker comes."""

    def opened(self, workers: int | None) -> AbstractContextManager[Client]:
        """Return what starts the pods."""
        from pipeline.compute.clusters.kubernetes import open_kubernetes

        return open_kubernetes(self, workers=workers)

    def check(self) -> None:
        """Refuse what no pod could be."""
        Started.check(self)
        self.check_positive("workers", "wait_s")
        if not self.memory:
            raise self.wrong('memory is missing; a pod asks for it, such as memory = "8GB"')
        if self.gpus > 1:
            raise self.wrong(f"gpus is {self.gpus}; each worker has one, so set gpus = 1")
        for key in ("python", "interface", "tls_cert"):
            if getattr(self, key):
                raise self.wrong(f"{key} is set, which kind kubernetes does not have; leave it out")


KINDS: dict[str, type[Description]] = {
    kind.KIND: kind for kind in (Scheduler, Ssh, Slurm, Pbs, Lsf, Sge, Kubernetes)
}
