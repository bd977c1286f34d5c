"""Workers as jobs of a batch queue, by dask-jobqueue: SLURM, PBS, LSF, Grid Engine.

The scheduler runs in this process. A queue job that is cancelled, lost, or at the end of its time
is replaced by another for as long as the run goes on.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Status

from pipeline.compute.clusters.security import in_files
from pipeline.compute.clusters.started import (
    await_workers,
    client_of,
    environment_of,
    own_session,
    scheduler_options,
    watching,
)
from pipeline.compute.local_cluster import LocalScheduler, garbage_kept, tasks_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Security

    from pipeline.compute.clusters.description import Queue

logger = logging.getLogger(__name__)

_REPLACED_AFTER = "5s"
"""How long a worker may be gone before its queue job counts as lost: its nanny may restart it."""
_TURN_S = 3.0
_GPU_REQUEST = {
    "slurm": "--gres=gpu:{}",
    "pbs": "-l select=1:ngpus={}",
    "lsf": '-gpu "num={}"',
    "sge": "-l gpu={}",
}
_LISTS_JOBS = {"slurm": ("squeue", "--me", "--noheader", "--format=%A")}
"""Commands that print the ids of the user's jobs, waiting or running, a line each."""


@contextmanager
def open_queue(description: Queue, *, workers: int | None) -> Iterator[Client]:
    """Yield a client of workers that a queue starts, and keeps at their number.

    Raises:
        UsageError: if the queue's commands are missing here.
        ClusterError: if the queue refuses the job, or no worker comes within `wait_s`.
    """
    refusals: list[str] = []
    job_class = _job_class(description, refusals)
    count = workers or description.workers
    with _folder(description) as folder, own_session(description) as made:
        security = in_files(made, folder)
        cluster = _cluster(description, job_class, folder=folder, security=security)
        with cluster, client_of(cluster, security) as client:
            # Not `scale`, which never replaces a job that was cancelled.
            cluster.adapt(minimum=count, maximum=count, interval="1s")
            jobs = _Jobs(description, cluster, folder, refusals)
            await_workers(client, 1, within_s=description.wait_s, why=jobs.why_none_comes)
            with jobs.replaced():
                yield client


def _job_class(description: Queue, refusals: list[str]) -> Any:
    """Return the class of a kind's queue jobs, which appends to `refusals` why one is refused.

    Raises:
        UsageError: if dask-jobqueue or the commands of the queue are not there.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise description.wrong(
            f"kind {description.KIND} needs dask-jobqueue ({error}); pip install 'upres[hpc]'"
        ) from error
    base: Any = getattr(dask_jobqueue, f"{description.KIND.upper()}Cluster").job_cls
    command = shlex.split(base.submit_command)[0]
    if shutil.which(command) is None:
        raise description.wrong(
            f"kind {description.KIND} needs the command {command}, which is not on this machine; "
            "run upres where queue jobs can be submitted"
        )

    class Job(base):  # type: ignore[misc]
        """A queue job of which it is known why it was refused."""

        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refusals.append(_last_line(str(error)))
                self.status = Status.failed  # Or the cluster would not end.
                raise

    return Job


def _cluster(description: Queue, job_class: Any, *, folder: Path, security: Security) -> Any:
    import dask
    from dask_jobqueue.core import JobQueueCluster

    dask.config.set({"distributed.deploy.lost-worker-timeout": _REPLACED_AFTER})
    computing = max(1, description.threads)
    variables = environment_of(description.environment, threads=computing)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    asked = {
        "queue": description.queue,
        "account": description.account,
        "walltime": description.walltime,
        "interface": description.interface,
        "local_directory": description.local_directory,
    }
    gpu = bool(description.gpus)
    with garbage_kept():
        return JobQueueCluster(
            job_cls=job_class,
            scheduler_cls=LocalScheduler,
            scheduler_options=scheduler_options(description, security),
            security=security,
            protocol="tls://",
            log_directory=str(folder),
            cores=tasks_at_once(gpu=gpu),
            job_cpu=computing,
            processes=1,
            memory=description.memory,
            python=shlex.quote(description.python or sys.executable),
            job_script_prologue=[*description.prologue, *exports],
            job_extra_directives=_directives(description),
            worker_extra_args=["--no-dashboard", *(["--resources", "GPU=1"] if gpu else [])],
            silence_logs=logging.CRITICAL,
            **{key: value for key, value in asked.items() if value},
        )


def _directives(description: Queue) -> list[str]:
    gpus = [_GPU_REQUEST[description.KIND].format(description.gpus)] if description.gpus else []
    return [*gpus, *description.directives]


@dataclass(slots=True)
class _Jobs:
    """The queue jobs of a run: which of them are gone without a word."""

    description: Queue
    cluster: Any
    folder: Path
    refusals: list[str]
    missed: set[str] = field(default_factory=set)
    """Ids that the queue did not list when it was asked last."""

    def why_none_comes(self) -> str:
        """Return why no worker will come, "" while one may."""
        if self.refusals:
            return f"cluster {self.description.name!r}: the queue refuses: {self.refusals[0]}"
        if self._gone():
            return (
                f"cluster {self.description.name!r}: a queue job ended before its worker came: "
                f"{self._last_words()}"
            )
        return ""

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Within the block, drop jobs that ended before their worker came; others take over.

        Dask itself notices only the end of workers that were there.
        """
        with watching(self._drop_gone, name="upres-queue", every_s=_TURN_S):
            yield

    def _drop_gone(self) -> None:
        if gone := self._gone():
            logger.warning(
                "cluster %r: a queue job is gone (%s); another replaces it",
                self.description.name,
                self._last_words(),
            )
            self.cluster.sync(self.cluster.scale_down, gone)

    def _gone(self) -> list[str]:
        """Return the names of workers that never came, and whose jobs the queue does not list.

        Twice in a row: a job that was just submitted may not be listed yet.
        """
        listing = _LISTS_JOBS.get(self.description.KIND)
        here = {str(info["name"]) for info in self.cluster.scheduler_info["workers"].values()}
        absent = {
            str(job.job_id): str(name)
            for name, job in list(self.cluster.workers.items())
            if str(name) not in here and getattr(job, "job_id", None)
        }
        if listing is None or not absent:
            self.missed = set()
            return []
        answer = subprocess.run(listing, capture_output=True, text=True, check=False)
        if answer.returncode:
            return []  # The queue itself does not answer; it will.
        missing = absent.keys() - set(answer.stdout.split())
        gone = [absent[id] for id in missing & self.missed]
        self.missed = set(missing)
        return gone

    def _last_words(self) -> str:
        """Return the last line of the youngest log of a queue job."""
        logs = sorted(self.folder.glob("*.err"), key=lambda log: log.stat().st_mtime)
        texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs[-1:]]
        return _last_line("\n".join(texts)) or "it left no message"


@contextmanager
def _folder(description: Queue) -> Iterator[Path]:
    """Yield a private folder that the workers see too, for keys and logs of this run."""
    base = Path(description.shared_directory or "~/.local/state/upres").expanduser()
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=base))
    except OSError as error:
        raise description.wrong(
            f"{base} cannot be written ({error.strerror}); name a folder that the machines of the "
            "queue see as well with shared_directory"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
