"""Workers as jobs of a batch queue, by dask-jobqueue: SLURM, PBS, LSF, Grid Engine.

The scheduler runs in this process. A queue job that is cancelled, lost, or at the end of its time
is replaced by another for as long as the run goes on.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compute.clusters.security import in_files
from pipeline.compute.clusters.started import (
    await_workers,
    client_of,
    environment_of,
    own_session,
    scheduler_options,
)
from pipeline.compute.local_cluster import LocalScheduler, tasks_at_once
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Security

    from pipeline.compute.clusters.description import Queue

logger = logging.getLogger(__name__)

_REPLACED_AFTER = "5s"
"""How long a worker may be gone before its queue job counts as lost: its nanny may restart it."""
_GPU_REQUEST = {
    "slurm": "--gres=gpu:{}",
    "pbs": "-l select=1:ngpus={}",
    "lsf": '-gpu "num={}"',
    "sge": "-l gpu={}",
}


@contextmanager
def open_queue(description: Queue, *, workers: int | None) -> Iterator[Client]:
    """Yield a client of workers that a queue starts, and keeps at their number.

    Raises:
        UsageError: if the queue's commands are missing here.
        ClusterError: if the queue refuses the job, or no worker comes within `wait_s`.
    """
    job_class, refusals = _job_class(description)
    count = workers or description.workers
    with _folder(description) as folder, own_session(description) as made:
        security = in_files(made, folder)
        cluster = _cluster(description, job_class, folder=folder, security=security)
        with cluster, client_of(cluster, security) as client:
            # Not `scale`, which never replaces a job that was cancelled.
            cluster.adapt(minimum=count, maximum=count, interval="1s")
            logger.info("waiting for %s to start workers", description.KIND)
            await_workers(
                client,
                1,
                within_s=description.wait_s,
                why=lambda: _why(description, refusals, folder),
            )
            yield client


def _job_class(description: Queue) -> tuple[type[Any], list[str]]:
    """Return the class of a kind's queue jobs, and the list in which refusals will stand.

    Raises:
        UsageError: if dask-jobqueue or the commands of the queue are not there.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise UsageError(
            f"cluster {description.name!r} is of kind {description.KIND}, which needs "
            f"dask-jobqueue ({error}); pip install 'upres[hpc]'"
        ) from error
    base: Any = getattr(dask_jobqueue, f"{description.KIND.upper()}Cluster").job_cls
    command = shlex.split(base.submit_command)[0]
    if shutil.which(command) is None:
        raise UsageError(
            f"cluster {description.name!r} is of kind {description.KIND}, and the command "
            f"{command} is not on this machine; run upres where jobs can be submitted"
        )
    refusals: list[str] = []

    class Job(base):  # type: ignore[misc]
        """A queue job of which it is known why it was refused."""

        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refusals.append(_said(error))
                raise

    return Job, refusals


def _cluster(description: Queue, job_class: Any, *, folder: Path, security: Security) -> Any:
    import dask
    from dask_jobqueue.core import JobQueueCluster

    dask.config.set({"distributed.deploy.lost-worker-timeout": _REPLACED_AFTER})
    computing = max(1, description.threads)
    variables = environment_of(description, threads=computing)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    asked = {
        "queue": description.queue,
        "account": description.account,
        "walltime": description.walltime,
        "interface": description.interface,
        "local_directory": description.local_directory,
    }
    return JobQueueCluster(
        job_cls=job_class,
        scheduler_cls=LocalScheduler,
        scheduler_options=scheduler_options(description, security),
        security=security,
        protocol="tls://",
        log_directory=str(folder),
        cores=tasks_at_once(gpu=bool(description.gpus)),
        job_cpu=computing,
        processes=1,
        memory=description.memory,
        python=shlex.quote(description.python or sys.executable),
        job_script_prologue=[*description.prologue, *exports],
        job_extra_directives=_directives(description),
        worker_extra_args=["--no-dashboard", *(["--resources", "GPU=1"] * bool(description.gpus))],
        **{key: value for key, value in asked.items() if value},
    )


def _directives(description: Queue) -> list[str]:
    gpus = [_GPU_REQUEST[description.KIND].format(description.gpus)] * bool(description.gpus)
    return [*gpus, *description.directives]


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


def _why(description: Queue, refusals: list[str], folder: Path) -> str:
    return refusals[0] if refusals else ""


def _said(error: Exception) -> str:
    return str(error)
