"""Clusters by name: what the TOML file says, and what is refused in one line."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pipeline.compute.clusters.description import KINDS, Queue, Scheduler, Slurm, Ssh
from pipeline.compute.clusters.file import described, is_name
from pipeline.compute.request import WorkersRequest
from pipeline.errors import UsageError

GOOD = """
[night]
kind = "slurm"
workers = 4
memory = "8GB"
walltime = "08:00:00"
directives = ["--constraint=avx512"]
[night.environment]
OMP_PLACES = "cores"

[lab]
kind = "ssh"
hosts = ["a", "b"]
known_hosts = "known"

[server]
kind = "scheduler"
address = "tls://server:8786"
tls_ca_file = "ca.pem"
tls_cert = "me.pem"
tls_key = "me.key"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("known", "ca.pem", "me.pem", "me.key"):
        (tmp_path / name).touch()
    (tmp_path / "clusters.toml").write_text(GOOD)
    return tmp_path / "clusters.toml"


def test_a_name_stands_for_what_the_file_says(file: Path) -> None:
    night = described("night", file)
    assert isinstance(night, Slurm)
    assert (night.workers, night.memory, night.walltime) == (4, "8GB", "08:00:00")
    assert night.environment == {"OMP_PLACES": "cores"}
    lab = described("lab", file)
    assert isinstance(lab, Ssh)
    assert lab.hosts == ["a", "b"]


def test_files_are_looked_for_beside_the_file_that_names_them(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    server = described("server", file)
    assert isinstance(server, Scheduler)
    assert Path(server.tls_key) == file.parent / "me.key"


def test_the_file_of_the_user_is_where_xdg_says(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = file.parent / "config"
    (config / "upres").mkdir(parents=True)
    (config / "upres" / "clusters.toml").write_text('[x]\nkind = "ssh"\nhosts = ["h"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    assert isinstance(described("x"), Ssh)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(file.parent))
    with pytest.raises(UsageError, match=r"\.config/upres/clusters\.toml, which cannot be read"):
        described("x")


@pytest.mark.parametrize(
    ("cluster", "named"),
    [("local", False), ("tcp://h:1", False), ("h:8786", False), ("night", True), ("a.b", True)],
)
def test_an_address_is_not_a_name(cluster: str, named: bool) -> None:
    assert is_name(cluster) is named


@pytest.mark.parametrize(
    "cluster", ["tcp://host", "tcp://h:x", "host:", ":8786", "host:0", "tcp://host:65536", "a b:1"]
)
def test_what_can_be_no_address_is_refused_before_anybody_is_called(cluster: str) -> None:
    with pytest.raises(UsageError, match="expected local, the name of a cluster, or the address"):
        WorkersRequest(cluster=cluster).cluster_settings()


@pytest.mark.parametrize(
    "cluster", ["tcp://host:1", "tls://[::1]:8786", "host:65535", "inproc://192.0.2.2/26853/1", ""]
)
def test_an_address_with_host_and_port_is_taken(cluster: str) -> None:
    settings = WorkersRequest(cluster=cluster).cluster_settings()
    assert settings.address == (cluster or "local")


def test_workers_that_are_asked_for_are_for_a_queue_and_no_other_cluster(file: Path) -> None:
    asked = WorkersRequest(cluster="night", clusters=file, workers=9).cluster_settings()
    assert asked.workers == 9
    assert isinstance(asked.named, Queue)
    with pytest.raises(UsageError, match="lab has its own"):
        WorkersRequest(cluster="lab", clusters=file, workers=9).cluster_settings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no cluster is called 'x' in .*; it names none"),
        ("[nigth]\n[y]\n", "no cluster is called 'x' in .*; known are nigth, y"),
        ("x = 3", r"x in .* is 3, expected a table \[x\]"),
        ("[x]\n", "has no kind, expected one of scheduler, ssh, slurm"),
        ('[x]\nkind = "slrum"\n', 'has kind "slrum", expected one of'),
        ("[x]\nkind = 3\n", "has kind 3, expected one of"),
        ('[x]\nkind = "ssh"\n', "lacks hosts, which kind ssh needs"),
        ('[x]\nkind = "ssh"\nhosts = "a"\n', 'hosts is "a", expected a list'),
        ('[x]\nkind = "ssh"\nhost = ["a"]\n', "has no key 'host'; did you mean hosts?"),
        ('[x]\nkind = "ssh"\nhosts = []\n', "expected names of machines"),
        ('[x]\nkind = "ssh"\nhosts = ["-oProxyCommand=x"]\n', "expected names of machines"),
        ('[x]\nkind = "ssh"\nhosts = ["a", "a"]\n', "a machine twice"),
        ('[x]\nkind = "ssh"\nhosts = ["a"]\nport = 70000\n', "port is 70000"),
        ('[x]\nkind = "ssh"\nhosts = ["a"]\nkey_file = "no"\n', "no', which is not a file"),
        ('[x]\nkind = "slurm"\n', "memory is missing"),
        ('[x]\nkind = "slurm"\nmemory = "much"\n', "memory is 'much', expected such as 8GB"),
        ('[x]\nkind = "slurm"\nmemory = "1GB"\nworkers = 0\n', "workers is 0"),
        (
            '[x]\nkind = "slurm"\nmemory = "1GB"\nworkers = true\n',
            "workers is true, expected a who",
        ),
        ('[x]\nkind = "slurm"\nmemory = "1GB"\nwalltime = "soon"\n', "expected such as 08:00:00"),
        ('[x]\nkind = "slurm"\nmemory = "1GB"\ngpus = 2\n', "one worker and one GPU"),
        ('[x]\nkind = "slurm"\nmemory = "1GB"\nprologue = ["a\\nb"]\n', "expected a list of lines"),
        (
            '[x]\nkind = "slurm"\nmemory = "1GB"\n[x.environment]\n"A B" = "1"\n',
            "environment has 'A B'",
        ),
        ('[x]\nkind = "scheduler"\naddress = "server"\n', "expected such as tls://HOST:8786"),
        ('[x]\nkind = "scheduler"\naddress = "h:1"\ntls_cert = "c"\n', "tls_ca_file is missing"),
        ("[x", "is not a TOML file"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_can(
    text: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        described("x", file)
    assert "\n" not in str(error.value)


def test_the_command_line_refuses_an_unknown_name_before_anything_is_made(
    file: Path, upres: Any, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    said = upres(
        "upscale", tmp_path / "photos", tmp_path / "job", "--cluster", "nihgt", "--clusters", file
    )
    assert said.code == 2
    assert "did you mean night?" in said.err
    assert not (tmp_path / "job").exists()


def test_the_examples_of_the_documents_are_clusters(tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs" / "clusters.md").read_text()
    examples = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "keys").mkdir()
    for name in ("ca.pem", "upres.pem", "upres.key"):
        (tmp_path / "keys" / name).touch()
    file = tmp_path / "clusters.toml"
    file.write_text("\n".join(examples))
    names = re.findall(r"^\[(\w+)\]$", file.read_text(), re.MULTILINE)
    kinds = [described(name, file).KIND for name in names]
    assert kinds == [kind for kind in KINDS if kind in kinds]
    assert {"scheduler", "ssh", "slurm"} <= set(kinds)


def test_every_key_stands_in_the_documents() -> None:
    page = (Path(__file__).parents[4] / "docs" / "clusters.md").read_text()
    keys = {f.name for kind in KINDS.values() for f in fields(kind)} - {"name"}
    assert [key for key in sorted(keys) if f"`{key}" not in page and f"{key} = " not in page] == []


def test_the_other_queues_have_the_keys_of_slurm() -> None:
    keys = {name: {f.name for f in fields(kind)} for name, kind in KINDS.items()}
    assert keys["slurm"] == keys["pbs"] == keys["lsf"] == keys["sge"]
