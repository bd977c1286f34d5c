"""The command `upres` runs upres's own modules, whatever lies on PYTHONPATH or around it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
START = "import sys; sys.argv[0] = 'upres'; from upres_start import main; main()"


def command(
    folder: Path, *words: str, first: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the console script's own lines in `folder`, which is on PYTHONPATH as well."""
    places = [str(p) for p in (first, folder, ROOT) if p is not None]
    return subprocess.run(
        [sys.executable, "-P", "-c", START, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("name", ["models", "pipeline", "flows"])
@pytest.mark.parametrize("kind", ["package", "folder", "file"])
def test_a_users_own_module_does_not_take_the_place_of_one_of_upres(
    tmp_path: Path, name: str, kind: str
) -> None:
    if kind == "file":
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')\n")
    else:
        (tmp_path / name).mkdir()
    if kind == "package":
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('mine')\n")
    done = command(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Upscale whole image archives" in done.stdout


@pytest.mark.slow
def test_libraries_on_pythonpath_do_not_take_the_place_of_those_installed(tmp_path: Path) -> None:
    for name in ("numpy", "click", "random", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')\n")
    done = command(tmp_path, "models")
    assert done.returncode == 0, done.stderr
    assert "span-x4" in done.stdout


def test_a_module_that_still_shadows_one_of_upres_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    shadowed = START.replace("import sys;", f"import sys; sys.path.insert(0, {str(tmp_path)!r});")
    done = subprocess.run(
        [sys.executable, "-P", "-c", shadowed, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("upres: Python finds 'models' at")
    assert str(tmp_path / "models") in line
    assert str(ROOT / "models") in line


@pytest.mark.slow
def test_workers_find_upres_where_the_command_does(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 16), (9, 99, 199)).save(tmp_path / "in" / "a.png")
    for name in ("models", "pipeline", "flows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('mine')\n")
    for name in ("numpy", "random", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')\n")
    done = command(tmp_path, "upscale", "in", "job", "--model", "nearest-x2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "1 tile computed" in done.stdout
