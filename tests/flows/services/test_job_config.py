"""A file of jobs says what runs every night; what is wrong in it is said in one line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flows.services.job_config import read_jobs
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path, text: str, said: list[str] | None = None) -> list[object]:
    (folder / "photos").mkdir(exist_ok=True)
    file = folder / "jobs.toml"
    file.write_text(text)
    lines: list[str] = [] if said is None else said
    return list(read_jobs(file, warn=lines.append))


GOOD = 'src = "photos"\njob_dir = "out"\nat = "2:00"\n'


def test_each_table_is_a_job_with_the_fields_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda place, _mode: place != closed)
    first, second = read(
        tmp_path,
        f'[holidays]\n{GOOD}until = 06:30:00\ntimezone = "Europe/Berlin"\nlimit_s = 60\n'
        f'[scans]\nsrc = "/not/mounted"\njob_dir = "{closed}/x2"\nat = "20:00"\nbudget = "5h"\n'
        'timezone = "UTC"\nworkers = 2\n',
        said,
    )
    assert (first.name, first.at, first.timezone) == ("holidays", "02:00", "Europe/Berlin")  # type: ignore[attr-defined]
    request = first.request  # type: ignore[attr-defined]
    assert (request.src, request.job_dir) == (str(tmp_path / "photos"), tmp_path / "out")
    assert (request.until, request.timezone, request.limit_s) == ("06:30", "Europe/Berlin", 60.0)
    assert (second.timezone, second.request.timezone) == ("UTC", "")  # type: ignore[attr-defined]
    assert (second.request.workers, second.request.budget) == (2, "5h")  # type: ignore[attr-defined]
    # The disk of either may be mounted later, and the other jobs are to run meanwhile.
    missing, closed_folder = said
    assert "[scans] is scheduled, but at the moment" in missing
    assert "/not/mounted" in missing
    assert "[scans] is scheduled, but at the moment" in closed_folder
    assert f"{closed}/x2 cannot be written" in closed_folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a", "is not a TOML file"),
        ("\udcff", "is not a TOML file"),
        ('at = "02:00"', "not in a table"),
        (f"[a]\n{GOOD}modle = 'span-x4'", "[a] has the key 'modle', expected one of"),
        ('[a]\nsrc = "photos"\njob_dir = "out"', "[a] has no at"),
        ('[a]\nsrc = "photos"\nat = "2:00"', "[a] has no job_dir"),
        ('[a]\njob_dir = "out"\nat = "2:00"', "[a] has no src"),
        (f"[a]\n{GOOD}tile_px = '512'", "tile_px is '512', expected a whole number"),
        (f"[a]\n{GOOD}tile_px = true", "tile_px is True, expected a whole number"),
        (f"[a]\n{GOOD}tile_px = 1.5", "tile_px is 1.5"),
        (f"[a]\n{GOOD}tile_px = 3", "[a]: tile is 3 px"),
        (f"[a]\n{GOOD}prune = 1", "prune is 1, expected true or false"),
        (f"[a]\n{GOOD}until = 'late'", "[a]: until is 'late'"),
        (f"[a]\n{GOOD}timezone = 'Mars/North'", "Mars/North"),
        (f"[a]\n{GOOD}export_dir = ['out']", "export_dir is ['out'], expected a path"),
        (f"[a]\n{GOOD.replace('2:00', '26:00')}", "26:00"),
        (f"[a]\n{GOOD.replace('photos', '')}", "[a]: the source is empty"),
        (f"[a]\n{GOOD}model = 'span-x5'", "[a]: no model is called 'span-x5'"),
        (f"[a]\n{GOOD}cluster = 'nonsense'", "[a]: --cluster nonsense is a name"),
        (f"[a]\n{GOOD}cluster = 'tcp://nonsense'", "[a]: --cluster is 'tcp://nonsense', expected"),
        (f"[a]\n{GOOD}clusters = 'mine.toml'", "/mine.toml is not a file; check the path"),
        (f"[a]\n{GOOD}recipe = 'span-x4'", "[a] has the key 'recipe', expected one of"),
        (f"[a]\n{GOOD}model = 'own.safetensors'", "[a]: no model is called 'own.safetensors'"),
        (f"[a]\n{GOOD}ledger = 'postgresql://me:secret@h/d'", "[a]: ledger holds a password"),
        (f"[a]\n{GOOD}[b]\n{GOOD}", "[a] and [b] have the same job_dir"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    (tmp_path / "photos").mkdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as refused:
        read_jobs(file, warn=lambda _line: None)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)
