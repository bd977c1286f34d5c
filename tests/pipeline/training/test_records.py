"""Figures of a training that were damaged meanwhile."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.training.small_trainings import PLAIN, interrupted, run, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.storage.dataset import Dataset


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """Return the folder of a training that was killed after its fifth step."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(KeyboardInterrupt):
        run(dataset, PLAIN, folder, tick=interrupted(5))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("3,alone,", ",al,", 1),
        lambda text: text.replace("3,alone,", "3,alone,x", 1),
        lambda text: text.replace("3,alone,", "3,alone,nan,", 1),
        lambda text: "step,stage,lo\n" + text.split("\n", 1)[1],
        lambda text: "\udcff\udcfe" * 9 + text,
        lambda _: "",
    ],
)
def test_figures_that_are_damaged_end_no_training(
    damage: Callable[[str], str],
    dataset: Dataset,
    killed: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    metrics = tmp_path / "metrics.csv"
    content = damage(metrics.read_text())
    metrics.write_bytes(content.encode(errors="surrogateescape"))
    run(dataset, PLAIN, tmp_path, resume=True)
    assert [row["step"] for row in told(tmp_path)] == ["6"]
    assert ("metrics.csv is damaged" in caplog.text) == bool(content)
