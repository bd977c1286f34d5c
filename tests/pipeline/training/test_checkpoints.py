"""Checkpoints: when what resuming needs is written, and which models are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from tests.pipeline.training.small_trainings import PLAIN, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset


def test_what_resuming_needs_is_written_after_the_first_step_and_every_minute(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock is moved on by 25 s a step: of 9 steps, three end a minute."""
    now = 0.0
    monkeypatch.setattr("pipeline.training.checkpoints.time.monotonic", lambda: now)
    written: list[int] = []

    def tick(step: int, _of: int) -> None:
        nonlocal now
        now += 25.0
        state = tmp_path / "state.safetensors"
        if state.exists():
            written.append(int(load_file(state)["numbers"][0]))

    run(dataset, replace(PLAIN, steps=9, validate_every=9, checkpoint_every=9), tmp_path, tick=tick)
    # Heard before what is due after the step itself.
    assert written == [1, 1, 1, 4, 4, 4, 7, 7]


def test_only_the_last_checkpoints_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, replace(PLAIN, keep=1), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000006.safetensors"]


@pytest.mark.slow
def test_checkpoints_of_an_earlier_training_push_out_none_of_this_one(
    dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (900, 901, 902):
        (tmp_path / "checkpoints" / f"{step:08}.safetensors").write_bytes(b"of before")
    run(dataset, replace(PLAIN, keep=1), tmp_path)
    kept = sorted(int(path.stem) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [6, 900, 901, 902]
