"""`upres train`: whatever is asked for on the command line is in the request, and is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.core import ParameterSource

from flows.cli import main
from pipeline.dataset.request import PrepareRequest
from pipeline.errors import SourceError, UsageError
from pipeline.training.request import TrainRequest

if TYPE_CHECKING:
    from tests.conftest import Command

WORDS = (
    "photos", "--out", "run", "--recipe", "mine.toml", "--set", "scale=2", "--set", "steps=9",
    "--set", "prepare.count=3", "--features", "torchvision", "--device", "cuda:1",
    "--readers", "0", "--memory", "disk", "--resume",
)  # fmt: skip
REQUEST = {
    "src": "photos",
    "out_dir": Path("run"),
    "recipe": "mine.toml",
    "settings": ("scale=2", "steps=9", "prepare.count=3"),
    "features": (Path("torchvision"),),
    "device": "cuda:1",
    "readers": 0,
    "memory": "disk",
    "resume": True,
}
ELSEWHERE = {"as_json"}
"""Options that are not about what is trained: how the result is shown."""


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[TrainRequest]:
    """The requests that a command makes, none of which is carried out."""
    taken: list[TrainRequest] = []

    def take(request: TrainRequest, **_: object) -> None:
        taken.append(request)
        raise SourceError("enough")

    monkeypatch.setattr("pipeline.training.run.run_training", take)
    return taken


def test_every_option_of_train_is_in_the_request(
    requests: list[TrainRequest], upres: Command
) -> None:
    assert upres("train", *WORDS).code == 1
    assert requests == [TrainRequest(**REQUEST)]


def test_no_option_of_train_and_no_field_of_the_request_is_forgotten_here() -> None:
    command = main.commands["train"]
    context = command.make_context("train", list(WORDS))
    said = ParameterSource.COMMANDLINE
    seen = {p.name for p in command.params if context.get_parameter_source(p.name) is said}
    assert seen | ELSEWHERE == {p.name for p in command.params}
    assert {f.name for f in fields(TrainRequest)} == REQUEST.keys()
    usual = TrainRequest(src="", out_dir=Path())
    assert [name for name, value in REQUEST.items() if getattr(usual, name) == value] == []


def test_without_options_a_request_has_its_own_defaults(
    requests: list[TrainRequest], upres: Command
) -> None:
    assert upres("train", "photos", "--out", "run").code == 1
    assert requests == [TrainRequest(src="photos", out_dir=Path("run"))]


def test_what_a_training_asks_of_preparing_is_a_request_too() -> None:
    request = TrainRequest(**REQUEST)
    assert request.own_settings == ["scale=2", "steps=9"]
    assert request.preparing() == PrepareRequest(
        src="photos",
        dataset_dir=Path("run/patches"),
        recipe="mine.toml",
        settings=("scale=2", "count=3"),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [({"readers": -1}, "--readers is -1"), ({"memory": "rom"}, "--memory is 'rom'; did you mean")],
)
def test_a_request_that_cannot_be_is_not_made(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainRequest(src="photos", out_dir=Path("run"), **values)
