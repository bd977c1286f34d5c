"""A user who serves: a folder of theirs, what they type there, and what the server knows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from tests.forked_command import forked_commands
from tests.ports import free_port
from tests.services.databases import put_new_database
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UPRES = [sys.executable, "-c", "from flows.cli import main; main()"]
ROOT = Path(__file__).parents[2]


class Night:
    """A folder of a user who serves, with what they type there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        put_new_database(self.home / "prefect")
        self.port = free_port()
        self._upres = UPRES
        others = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self.slowest_s = 0.0
        """What a command, or the start of a server, has taken so far."""
        self.environ = {
            **others,
            "UPRES_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "TZ": "UTC",
        }

    @contextmanager
    def served(self, *words: object, port: int | None = None) -> Iterator[Serving]:
        serving = Serving(
            self, [*UPRES, "serve", "--port", str(port or self.port), *map(str, words)]
        )
        try:
            yield serving
        finally:
            serving.end()

    @contextmanager
    def typing_much(self, serving: Serving) -> Iterator[None]:
        """Let what is typed in the block, while that serves, be forked: imports take time."""
        serving.ready()
        with forked_commands(self.environ) as folder:
            self._upres = [str(folder / "upres")]
            yield
        self._upres = UPRES

    def typed(self, *words: object, **environ: str) -> subprocess.CompletedProcess[str]:
        with self.timed():
            return subprocess.run(
                [*self._upres, *map(str, words)],
                cwd=self.folder,
                env={**self.environ, **environ},
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_S,
            )

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def soon(self, commands: int = 1) -> str:
        """Return a time of the day before which so many commands can be typed on this machine."""
        # The minute that is not over yet is cut off.
        ahead_s = 60 + 2 * commands * max(10, self.slowest_s)
        return f"{datetime.now(UTC) + timedelta(seconds=ahead_s):%H:%M}"

    @staticmethod
    def far_off() -> str:
        """Return a time of the day that no test sees: in UTC, twelve hours away."""
        return f"{datetime.now(UTC) + timedelta(hours=12):%H}:00"

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        password = (self.home / "password").read_text().strip()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = httpx.post(
                f"http://127.0.0.1:{self.port}/api/{path}",
                json=body or {},
                auth=("upres", password),
                trust_env=False,
                # Each call would read the certificates of the world, in four times its own time.
                verify=False,
                timeout=PATIENCE_S,
            )
            # What it says while its database is busy; Prefect's own clients repeat it, too.
            busy = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not busy or time.monotonic() > deadline:
                break
            time.sleep(1)
        answer.raise_for_status()
        return answer.json()

    def runs(self, limit: int = 200, **only: Any) -> list[dict[str, Any]]:
        """Return runs by their time: a schedule makes a hundred, which a server lists slowly."""
        asked = {"sort": "EXPECTED_START_TIME_ASC", "limit": limit, "flow_runs": only}
        return list(self.api("flow_runs/filter", asked))

    def run(self, run: str) -> dict[str, Any]:
        (found,) = self.runs(id={"any_": [run]})
        return found

    def begin(self, name: str = "upres", **asked: Any) -> str:
        """Begin a run of the deployment of `nightly` that is called so; return its identifier."""
        path = f"deployments/{self.deployment(name)}/create_flow_run"
        return str(self.api(path, {"state": {"type": "SCHEDULED"}, **asked})["id"])

    def deployment(self, name: str) -> str:
        """Return the identifier of the deployment of `nightly` that is called so."""
        (found,) = self.api(
            "deployments/filter",
            {"deployments": {"name": {"any_": [name]}}, "flows": {"name": {"any_": ["nightly"]}}},
        )
        return str(found["id"])

    def process_of(self, run: str) -> psutil.Process:
        """Return the process of a run, once it has one."""
        until(lambda: self.run(run)["infrastructure_pid"])
        return psutil.Process(int(self.run(run)["infrastructure_pid"].rpartition(":")[2]))

    def coming(self, limit: int = 1, **only: Any) -> list[dict[str, Any]]:
        return self.runs(limit, state={"type": {"any_": ["SCHEDULED"]}}, **only)

    def started(self) -> list[dict[str, Any]]:
        return self.runs(state={"type": {"not_any_": ["SCHEDULED"]}})


class Serving:
    """An `upres serve` that runs, and what it said."""

    def __init__(self, night: Night, command: list[str]) -> None:
        self.night = night
        self.log = night.folder / f"serve-{time.monotonic_ns()}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=night.folder, env=night.environ, stdout=output, stderr=output
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ready(self) -> Serving:
        with self.night.timed():
            until(lambda: "pages: http" in self.said or self.process.poll() is not None, self.log)
        assert self.process.poll() is None, self.said
        return self

    def end(self, number: int = signal.SIGINT) -> int:
        """End it; nothing that it started may be left."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
        return code

    def family(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


def words_of(asked: dict[str, str]) -> list[str]:
    """Return the options of a command that ask the same as these parameters of a flow."""
    return [word for name, value in asked.items() for word in (f"--{name}", value)]


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    """Let a process go on only after the block: it must not end meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def wait_for(found: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    until(lambda: found() or process.poll() is not None, every_s=0.1)
    assert process.poll() is None, "it ended before"
