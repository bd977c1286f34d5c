"""Workers as pods of Kubernetes, by dask-kubernetes and the operator that it needs there.

**This was never run**: no control plane was at hand. Tests validate the manifests.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed import Client

from pipeline.compute.clusters.started import await_workers, environment_of
from pipeline.compute.local_cluster import closed_at_end, garbage_kept, tasks_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.clusters.description import Kubernetes

_SCHEDULER_PORT, _PAGES_PORT = 8786, 8787


@contextmanager
def open_kubernetes(description: Kubernetes, *, workers: int | None) -> Iterator[Client]:
    """Yield a client of workers in pods, which Kubernetes starts again when they end.

    Raises:
        UsageError: if dask-kubernetes is not installed.
        ClusterError: if no worker comes within `wait_s`.
    """
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise description.wrong(
            f"kind kubernetes needs dask-kubernetes ({error}); pip install 'upres[kubernetes]'"
        ) from error
    spec = manifest(description, workers=workers or description.workers)
    with garbage_kept():
        cluster = KubeCluster(
            custom_cluster_spec=spec, namespace=description.namespace or None, quiet=True
        )
    with cluster, closed_at_end(Client(cluster, timeout="10s")) as client:
        await_workers(client, 1, within_s=description.wait_s, why=str)
        yield client


def manifest(description: Kubernetes, *, workers: int) -> dict[str, Any]:
    """Return the resource ``DaskCluster`` that a description stands for."""
    name = "upres-" + re.sub("[^a-z0-9]+", "-", description.name.lower()).strip("-")
    labels = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    ports = {"comm": _SCHEDULER_PORT, "pages": _PAGES_PORT}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "worker": {"replicas": workers, "spec": {"containers": [_worker(description)]}},
            "scheduler": {
                "spec": {"containers": [_scheduler(description, ports)]},
                "service": {
                    "type": "ClusterIP",
                    "selector": labels,
                    "ports": [
                        {"name": name, "protocol": "TCP", "port": port, "targetPort": name}
                        for name, port in ports.items()
                    ],
                },
            },
        },
    }


def _worker(description: Kubernetes) -> dict[str, Any]:
    computing, gpu = max(1, description.threads), bool(description.gpus)
    asked = {"cpu": str(computing), "memory": _quantity(description.memory)}
    if gpu:
        asked["nvidia.com/gpu"] = "1"
    resources = ["--resources", "GPU=1"] if gpu else []
    directory = description.local_directory
    return {
        "name": "worker",
        "image": description.image,
        "args": [
            *("dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--no-dashboard"),
            *("--nworkers", "1", "--nthreads", str(tasks_at_once(gpu=gpu))),
            *("--memory-limit", description.memory, *resources),
            *(["--local-directory", directory] if directory else []),
        ],
        "env": _variables(environment_of(description.environment, threads=computing)),
        "resources": {"limits": asked, "requests": asked},
    }


def _scheduler(description: Kubernetes, ports: dict[str, int]) -> dict[str, Any]:
    """Return the scheduler's container: it asks for no GPU."""
    probe = {"httpGet": {"path": "/health", "port": "pages"}, "periodSeconds": 5}
    return {
        "name": "scheduler",
        "image": description.image,
        "args": ["dask", "scheduler", "--host", "0.0.0.0"],
        "env": _variables(description.environment),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "readinessProbe": probe,
        "livenessProbe": {**probe, "initialDelaySeconds": 30},
    }


def _variables(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _quantity(memory: str) -> str:
    """Return a size as Kubernetes writes it: ``8GB`` as ``8G``, ``8GiB`` as ``8Gi``."""
    return memory.replace(" ", "").upper().replace("I", "i").removesuffix("B")
