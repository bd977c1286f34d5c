"""What a night's log says of how far a stage is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.terminal import progress

if TYPE_CHECKING:
    import pytest


def test_the_time_left_is_told_of_the_pace_of_this_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock is moved on by 20 s a step, of a training that has made 2,000 of 2,400 before."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.counted("train", "steps") as tell:
        for step in range(2001, 2004):
            now += 20.0
            tell(step, 2400)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: 2001 of 2400 steps",
        "train: 2002 of 2400 steps, 2:12:40 left",
        "train: 2003 of 2400 steps, 2:12:20 left",
    ]
