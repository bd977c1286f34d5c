"""Whether all workers compute what this process would: versions, and instructions of the CPU.

What belongs here: what of a machine can change pixels, how machines are compared, and that a worker
which joins later is compared before it computes.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import socket
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Status, WorkerPlugin

from pipeline.compute.instructions import common_level, has_level, held_level, hold_to, own_level
from pipeline.errors import ClusterError, ModelError, UpresError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from distributed import Client

logger = logging.getLogger(__name__)

PIXELS = ("upres", "torch", "openvino", "numpy", "pillow", "imagecodecs")
"""What decodes and computes pixels: another version can give others."""
TOLD = ("python", "zarr", "distributed")
"""What no pixel depends on."""
_MAY_BE_MISSING = ("openvino",)
_ROOT = Path(__file__).parent.parent.parent
_TOPIC = "upres-refused"
_NAME = "upres-joining"
_COMPARED: dict[str, Installation] = {}
"""What workers that join are compared with, by the client whose workers are not of this machine."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What one process computes with."""

    host: str
    versions: Mapping[str, str]
    level: str
    """The highest level of instructions that it can be held to."""
    held: str = ""
    """The level that it computes with already, "" where it has not computed yet."""


def own_installation() -> Installation:
    """Return that of this process."""
    versions = {"python": platform.python_version(), "upres": f"{_version('upres')} {_code()}"}
    for name in (*PIXELS, *TOLD):
        versions.setdefault(name, _version(name))
    return Installation(socket.gethostname(), versions, own_level(), held_level())


@cache
def _version(name: str) -> str:
    """Return the version of a package without what names its build, "" where it is missing.

    A process has what was installed when it was first asked, so files are read once.
    """
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


@cache
def _code() -> str:
    """Return a hash of the code that computes pixels: two of one version may differ in it."""
    found = hashlib.sha256()
    for room in ("models", "pipeline"):
        for file in sorted((_ROOT / room).rglob("*.py")):
            found.update(f"{file.relative_to(_ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def refusal(own: Installation, others: Iterable[Installation]) -> str:
    """Return in one line which machines could compute other pixels than this, "" where none."""
    found = _differing(own, others, PIXELS)
    if not found:
        return ""
    return (
        f"workers could compute other pixels: {'; '.join(found)}; install the same there and start "
        "the workers again, or leave them out"
    )


def remark(own: Installation, others: Iterable[Installation]) -> str:
    """Return in one line what differs and changes no pixel, "" where nothing does."""
    found = _differing(own, others, TOLD)
    return f"workers differ, but not in their pixels: {'; '.join(found)}" if found else ""


def _differing(
    own: Installation, others: Iterable[Installation], names: Iterable[str]
) -> list[str]:
    others = list(others)
    found = []
    for name in names:
        here = own.versions[name]
        hosts: dict[str, set[str]] = defaultdict(set)
        for other in others:
            there = other.versions.get(name, "")
            # A backend that is not there computes nothing: a job that needs it says so.
            lacks = name in _MAY_BE_MISSING and not (here and there)
            if there != here and not lacks:
                hosts[there].add(other.host)
        found += [
            f"{name} is {here or 'missing'} here and {there or 'missing'} on {listed(on)}"
            for there, on in sorted(hosts.items())
        ]
    return found


def listed(hosts: Iterable[str]) -> str:
    """Return the names of machines, each once, a few of them where there are many."""
    hosts = sorted(set(hosts))
    more = len(hosts) - 5
    return ", ".join(hosts[:5]) + (f" and {more} more" if more > 0 else "")


def installations(client: Client) -> list[Installation]:
    """Return those of all workers.

    Raises:
        ClusterError: if one has no upres, or one that does not know this question.
    """
    answers = client.run(own_installation, on_error="return")
    for address, answer in answers.items():
        if not isinstance(answer, Installation):
            raise ClusterError(
                f"the worker at {address} cannot say what it computes with ({answer}); install the "
                "same upres there and start the worker again"
            )
    return list(answers.values())


def agree(client: Client) -> None:
    """Make sure that all workers compute what this process would, also those that join later.

    Raises:
        ClusterError: if they would not; it names the machines.
    """
    own, others = own_installation(), installations(client)
    if why := refusal(own, others):
        raise ClusterError(why)
    if line := remark(own, others):
        logger.warning(line)
    client.subscribe_topic(_TOPIC, _warn_once)
    _COMPARED[client.id] = own
    hold_workers(client, _shared(others))


def hold_workers(client: Client, level: str) -> None:
    """Hold all workers to `level`, also those that join later.

    Raises:
        ModelError: if one cannot be held to it; it names the machine.
    """
    here = frozenset(client.scheduler_info(n_workers=-1)["workers"])
    client.register_plugin(Joining(client.id, level, _COMPARED.get(client.id), here))


def shared_level(client: Client) -> str:
    """Return the highest level of instructions that all workers have.

    Raises:
        ClusterError: if their CPUs have none in common.
    """
    return _shared(installations(client))


def _shared(others: list[Installation]) -> str:
    level = common_level(one.level for one in others)
    if level is None:
        kinds = "; ".join(f"{one.host} has {one.level}" for one in others)
        raise ClusterError(f"workers have CPUs of different kinds ({kinds}); use those of one kind")
    # Those that have computed before keep their level.
    held = {one.held for one in others if one.held and has_level(level, one.held)}
    return held.pop() if len(held) == 1 else level


class Joining(WorkerPlugin):
    """Compares a worker before it computes, and holds it to the instructions of the run."""

    name = _NAME

    def __init__(
        self, run: str, level: str, own: Installation | None, here: frozenset[str]
    ) -> None:
        self._run = run
        self._level = level
        self._own = own
        self._here = here
        """Addresses of workers that were there before; others may use them too."""

    async def setup(self, worker: Any) -> None:
        """Check the worker; one that would compute other pixels is ended and reported."""
        try:
            if self._own is not None and (why := refusal(self._own, [own_installation()])):
                raise ModelError(why)
            hold_to(self._level, run=self._run)
        except UpresError as error:
            if worker.address not in self._here:
                worker.log_event(_TOPIC, str(error))
                # It gets no tasks from now on. Its nanny, which starts a worker again that ends by
                # itself, can be asked to end it only once both have started.
                worker.status = Status.closing_gracefully
                worker.loop.add_callback(worker.close, reason="upres-refused", executor_wait=False)
            raise


@cache
def _told(line: str) -> None:
    logger.warning("a worker that joined was ended: %s", line)


def _warn_once(event: tuple[float, Any]) -> None:
    _told(str(event[1]))
