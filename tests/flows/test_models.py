"""`upres models`: a table of all, a sheet of one, and a line for a name that leads nowhere."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from flows.cli import main
from models.checkpoint import load
from pipeline.training.catalogue import describe_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command


@pytest.fixture
def unshipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights are shipped from, and none are."""
    monkeypatch.setattr("models.shipped.WEIGHTS_DIR", tmp_path)
    return tmp_path


def test_a_model_is_told_in_words(upres: Command) -> None:
    said = upres("models", "span-x4")
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert lines["arguments"] == "features 48"
    assert "; Set14: lpips 0." in lines["scores"]
    assert "{" not in said.out


def test_a_recipe_is_told_with_its_command_and_nothing_that_it_lacks(upres: Command) -> None:
    lines = dict(line.split(maxsplit=1) for line in upres("models", "dcgan-x4").out.splitlines())
    assert lines["train"] == "upres train PICTURES --recipe dcgan-x4 --out DIR"
    assert lines["weights"] == "recipe"
    assert "never shipped" in lines["note"]
    assert "sha256" not in lines
    assert "train" not in dict(
        line.split(maxsplit=1) for line in upres("models", "span-x4").out.splitlines()
    )


def test_the_table_tells_scores_and_what_is_to_be_trained_in_120_columns(
    upres: Command,
) -> None:
    text = upres("models").out
    assert max(map(len, text.splitlines())) <= 120
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["srgan-faces-64"].split()[1:3] == ["train", "it"]
    assert "shipped" in lines["span-x4"]
    assert f"{load('span-x4').spec.scores['Set14']['psnr_y']:.3f}" in lines["span-x4"]


@pytest.mark.parametrize(
    ("name", "features"),
    [("srgan-x4", True), ("srgan-faces-96", True), ("span-x4-gan", True), ("swish-x4", False)],
)
def test_the_command_told_is_one_that_the_command_line_takes(
    name: str, features: bool, unshipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unshipped / "DIR").mkdir()
    monkeypatch.chdir(unshipped)
    program, command, *words = shlex.split(describe_model(name).train)
    assert (program, command) == ("upres", "train")
    whole = main.make_context("upres", [command])
    taken = main.commands[command].make_context(command, words, parent=whole).params
    assert (taken["src"], taken["recipe"], str(taken["out_dir"])) == ("PICTURES", name, "DIR")
    assert bool(taken["features"]) == features


@pytest.mark.parametrize(
    ("wrong", "right"), [("srgan-face-64", "srgan-faces-64"), ("spam-x4", "span-x4")]
)
def test_an_unknown_name_is_one_line_with_the_nearest_of_all(
    wrong: str, right: str, upres: Command
) -> None:
    said = upres("models", wrong)
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert f"did you mean {right}?" in line


def test_upscaling_by_a_recipe_without_weights_is_one_line_that_tells_how_to_train_it(
    upres: Command, tmp_path: Path
) -> None:
    said = upres("upscale", tmp_path, tmp_path / "job", "--model", "srgan-faces-64")
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert "no weights are shipped for srgan-faces-64" in line
    assert "`upres train PICTURES --recipe srgan-faces-64 --out DIR --features DIR`" in line
    assert "best.safetensors" in line
    assert not (tmp_path / "job").exists()
