"""prefect.yaml registers the flows that `upres serve` registers, to compute on UPRES_CLUSTER."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from flows.services.deployments import ENTRYPOINTS
from pipeline.compute.request import WorkersRequest

if TYPE_CHECKING:
    from tests.conftest import Command

FILE = Path(__file__).parents[2] / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["deployments"]


def test_each_flow_has_a_deployment() -> None:
    named = {str(one["entrypoint"]) for one in DEPLOYMENTS}
    assert named == {entrypoint.replace(":", ".") for entrypoint in ENTRYPOINTS.values()}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: str(one["entrypoint"]))
def test_a_flow_that_uses_workers_uses_those_of_the_variable(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    known = inspect.signature(getattr(import_module(module), name)).parameters
    given = deployment.get("parameters", {})
    expected = {"cluster": "{{ $UPRES_CLUSTER }}"} if "cluster" in known else {}
    assert given == expected


def test_where_the_variable_is_not_set_the_workers_are_local() -> None:
    assert WorkersRequest(cluster="").cluster_settings().address == "local"


def test_commands_use_the_workers_of_the_variable(
    tmp_path: Path, upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"")
    monkeypatch.setenv("UPRES_CLUSTER", "nonsense")
    said = upres("upscale", tmp_path / "in", tmp_path / "job", "--model", "bicubic-x2")
    assert said.code == 2
    assert "--cluster nonsense" in said.err
