"""Manifests of Kubernetes: valid ones of what a description asks for. None was ever applied."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.compute.clusters.description import Kubernetes
from pipeline.compute.clusters.kubernetes import manifest

validate = pytest.importorskip("kubernetes_validate").validate

CLOUD: dict[str, Any] = {"name": "My cloud", "image": "upres:1", "memory": "8GB", "threads": 4}


def parts(description: Kubernetes) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the specifications of worker pod, scheduler pod and service."""
    spec = manifest(description, workers=3)["spec"]
    scheduler = spec["scheduler"]
    return spec["worker"]["spec"], scheduler["spec"], scheduler["service"]


@pytest.mark.parametrize("more", [{}, {"gpus": 1, "local_directory": "/scratch"}])
def test_pods_and_service_are_valid(more: dict[str, Any]) -> None:
    worker, scheduler, service = parts(Kubernetes(**CLOUD, **more))
    about = {"apiVersion": "v1", "metadata": {"name": "x"}}
    for kind, spec in (("Pod", worker), ("Pod", scheduler), ("Service", service)):
        validate({**about, "kind": kind, "spec": spec}, "1.30", strict=True)
    with pytest.raises(Exception, match="foo"):
        validate({**about, "kind": "Pod", "spec": {**worker, "foo": 1}}, "1.30", strict=True)


def test_a_worker_has_the_threads_and_the_memory_that_are_asked_for() -> None:
    resource = manifest(Kubernetes(**CLOUD), workers=3)
    assert resource["metadata"]["name"] == "upres-my-cloud"
    assert resource["spec"]["worker"]["replicas"] == 3
    (container,) = resource["spec"]["worker"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "8G"}
    assert {"name": "UPRES_WORKER_THREADS", "value": "4"} in container["env"]


def test_workers_ask_for_a_gpu_and_the_scheduler_does_not() -> None:
    worker, scheduler, _ = parts(Kubernetes(**CLOUD, gpus=1))
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "GPU=1" in worker["containers"][0]["args"]
    assert "resources" not in scheduler["containers"][0]
