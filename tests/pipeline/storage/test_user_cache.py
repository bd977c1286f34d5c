"""The user's cache: found by the convention, shared by processes, and never too large."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.storage.user_cache import alone, cache_file, keep, kept


def test_what_is_kept_is_there_for_the_next_and_the_oldest_goes(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "down" / "some.json"
    assert kept(file) == {}
    with alone(file):
        keep(file, "0", 0)
        file.write_text(json.dumps({"format": 1, "kept": {str(n): n for n in range(256)}}))
        keep(file, "0", {"new": 1.5})
        assert (len(kept(file)), next(iter(kept(file)))) == (256, "1")
        assert kept(file)["0"] == {"new": 1.5}
        keep(file, "last", None)
    assert (len(kept(file)), next(iter(kept(file))), kept(file)["last"]) == (256, "2", None)
    assert sorted(path.name for path in file.parent.iterdir()) == ["some.json", "some.lock"]


def test_a_value_that_is_damaged_takes_no_other_with_it(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    keep(file, "sound", 1)
    keep(file, "other", 2)
    content = json.loads(file.read_text())
    content["kept"]["other"] = float("nan")
    file.write_text(json.dumps(content))
    assert kept(file)["sound"] == 1


@pytest.mark.parametrize("said", ["", "cache", "./cache"])
def test_a_cache_folder_that_is_not_absolute_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", said)
    assert cache_file("speeds") == tmp_path / ".cache" / "upres" / "speeds.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_file("speeds") == tmp_path / "other" / "upres" / "speeds.json"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file("speeds") is None
