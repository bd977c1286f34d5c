"""What an installation chooses: the newest Python for the tests, and the build of torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

NEWEST = Path(__file__).parent.parent / ".ci" / "newest-python"


def pretend(path: Path, version: str, *, whole: bool = True) -> Path:
    """Make what answers as a Python of that version; not `whole`, it cannot make environments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = version.replace(".", " ")
    broken = "" if whole else '*ensurepip*) echo "no module named ensurepip" >&2; exit 1;;'
    path.write_text(f'#!/bin/sh\ncase "$2" in {broken} *) echo "{numbers}";; esac\n')
    path.chmod(0o755)
    return path


def newest(tmp_path: Path) -> str:
    done = subprocess.run(
        [NEWEST, tmp_path / "bin" / "python3.11"],
        env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def oldest(tmp_path: Path) -> None:
    pretend(tmp_path / "bin" / "python3.11", "3.11.7")


def test_the_newest_python_is_found_on_the_path_and_at_pyenv(tmp_path: Path) -> None:
    there = pretend(tmp_path / ".pyenv/versions/3.99.2/bin/python3", "3.99.2")
    pretend(tmp_path / ".pyenv/versions/3.9.2/bin/python3", "3.9.2")
    assert newest(tmp_path) == str(there)
    on_path = pretend(tmp_path / "bin" / "python3.100", "3.100.0")
    assert newest(tmp_path) == str(on_path)


def test_one_that_cannot_make_environments_is_passed_over(tmp_path: Path) -> None:
    there = pretend(tmp_path / "bin" / "python3.98", "3.98.1")
    pretend(tmp_path / "bin" / "python3.99", "3.99.1", whole=False)
    pretend(tmp_path / "bin" / "python3.99-config", "3.99.1")
    assert newest(tmp_path) == str(there)


def test_none_that_is_newer_is_told_by_silence() -> None:
    done = subprocess.run(
        [NEWEST, sys.executable],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    system = [p for p in Path("/usr/bin").glob("python3.[0-9]*") if p.suffix[1:].isdigit()]
    if all(int(p.suffix[1:]) <= sys.version_info.minor for p in system):
        assert done.stdout == ""


# Which build of torch is installed: with a real pip, a real index, and a made wheel.

TORCH_INDEX = NEWEST.with_name("torch-index")


@pytest.fixture
def chooser() -> ModuleType:
    loader = SourceFileLoader("torch_index", str(TORCH_INDEX))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def serve_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, needs: str = "nvidia-cudnn-cu13==9.0"
) -> None:
    """Let pip find one wheel, torch 2.6 with what it needs, and nothing else."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "torch-2.6.0-py3-none-any.whl", "w") as wheel:
        about = "torch-2.6.0.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: 2.6.0\nRequires-Dist: {needs}\n"
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.fixture
def index() -> Iterator[str]:
    """Serve an index that lists torch."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/torch/" else 404)
            self.end_headers()
            self.wfile.write(b'<a href="torch-2.6.0+cpu.whl">torch-2.6.0+cpu.whl</a>')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def choose(
    chooser: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["torch-index", "torch>=2.6,<2.14"])
    chooser.main()
    said = capsys.readouterr()
    return said.out.strip(), said.err.strip()


@pytest.fixture(autouse=True)
def linux_without_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "chooser" in request.fixturenames:
        chooser = request.getfixturevalue("chooser")
        monkeypatch.setattr(chooser, "has_gpu", lambda: False)
        monkeypatch.setattr(chooser, "is_linux_x86", lambda: True)


def test_without_a_gpu_the_index_of_the_cpu_build_is_used_if_it_answers(
    tmp_path: Path,
    chooser: ModuleType,
    index: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve_alone(tmp_path / "wheels", monkeypatch)
    monkeypatch.setattr(chooser, "INDEX", index)
    options, said = choose(chooser, monkeypatch, capsys)
    assert options == f"--extra-index-url {index}"
    assert "0.5 GB will be downloaded" in said
    monkeypatch.setattr(chooser, "INDEX", f"{index}/elsewhere")
    options, said = choose(chooser, monkeypatch, capsys)
    assert options == ""
    assert "5.7 GB will be downloaded" in said
    assert "does not answer" in said


def test_with_a_gpu_the_build_for_it_is_taken(
    tmp_path: Path,
    chooser: ModuleType,
    index: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve_alone(tmp_path / "wheels", monkeypatch)
    monkeypatch.setattr(chooser, "INDEX", index)
    monkeypatch.setattr(chooser, "has_gpu", lambda: True)
    options, said = choose(chooser, monkeypatch, capsys)
    assert (options, "5.7 GB" in said) == ("", True)


def test_where_the_own_index_has_the_cpu_build_no_other_one_is_asked(
    tmp_path: Path,
    chooser: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve_alone(tmp_path / "wheels", monkeypatch, needs="filelock")
    monkeypatch.setattr(chooser, "INDEX", "http://127.0.0.1:9/never")
    options, said = choose(chooser, monkeypatch, capsys)
    assert (options, "0.5 GB" in said) == ("", True)
