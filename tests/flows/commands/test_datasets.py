"""`upres prepare`: whatever is asked for on the command line is in the request, and is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.core import ParameterSource

from flows.cli import main
from pipeline.dataset.request import PrepareRequest
from pipeline.errors import SourceError, UsageError

if TYPE_CHECKING:
    from tests.conftest import Command

WORDS = (
    "photos", "set", "--recipe", "mine.toml", "--set", "seed=2", "--set", "count=3",
    "--lr", "bicubic=small", "--lr", "noise=other", "--licence", "CC0 of all", "--names", "cp932",
    "--prune", "--check", "--unchecked", "--time-limit", "60",
    "--ledger", "sqlite:////elsewhere.sqlite",
)  # fmt: skip
REQUEST = {
    "src": "photos",
    "dataset_dir": Path("set"),
    "recipe": "mine.toml",
    "settings": ("seed=2", "count=3"),
    "lr_sources": ("bicubic=small", "noise=other"),
    "licence": "CC0 of all",
    "names": "cp932",
    "read_back": True,
    "prune": True,
    "unchecked": True,
    "limit_s": 60.0,
    "ledger": "sqlite:////elsewhere.sqlite",
}
ELSEWHERE = {"preview", "as_json"}
"""Options that are not about what is prepared: a picture instead, and how the result is shown."""


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[PrepareRequest]:
    """The requests that a command makes, none of which is carried out."""
    taken: list[PrepareRequest] = []

    def take(request: PrepareRequest, **_: object) -> None:
        taken.append(request)
        raise SourceError("enough")

    monkeypatch.setattr("pipeline.dataset.run.prepare_dataset", take)
    monkeypatch.setattr("pipeline.reports.patch_preview.preview_dataset", take)
    return taken


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("--workers", "3"), {"workers": 3}),
        (
            ("--cluster", "gpu", "--clusters", "mine.toml"),
            {"cluster": "gpu", "clusters": Path("mine.toml")},
        ),
    ],
)
def test_every_option_of_prepare_is_in_the_request(
    words: tuple[str, ...], where: dict[str, Any], requests: list[PrepareRequest], upres: Command
) -> None:
    assert upres("prepare", *WORDS, *words).code == 1
    assert requests == [PrepareRequest(**REQUEST, **where)]


def test_no_option_of_prepare_and_no_field_of_the_request_is_forgotten_here() -> None:
    command = main.commands["prepare"]
    seen: set[str | None] = set(ELSEWHERE)
    for more in (("--workers", "3"), ("--cluster", "gpu", "--clusters", "mine.toml")):
        context = command.make_context("prepare", [*WORDS, *more])
        said = ParameterSource.COMMANDLINE
        seen |= {p.name for p in command.params if context.get_parameter_source(p.name) is said}
    assert seen == {p.name for p in command.params}
    assert {f.name for f in fields(PrepareRequest)} == {*REQUEST, "cluster", "clusters", "workers"}
    usual = PrepareRequest(src="", dataset_dir=Path())
    assert [name for name, value in REQUEST.items() if getattr(usual, name) == value] == []


def test_without_options_a_request_has_its_own_defaults(
    requests: list[PrepareRequest], upres: Command
) -> None:
    for words in ((), ("--preview",)):
        assert upres("prepare", "photos", "set", *words).code == 1
    assert requests == [PrepareRequest(src="photos", dataset_dir=Path("set"))] * 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_sources": ("bicubic",)}, "--lr is 'bicubic', expected NAME=SRC"),
        ({"lr_sources": ("a=b", "a=c")}, "--lr names 'a' twice"),
        ({"unchecked": True}, "--unchecked goes with --lr"),
        ({"limit_s": 0.0}, "--time-limit is 0.0"),
        ({"limit_s": float("nan")}, "--time-limit is nan"),
        ({"limit_s": float("inf")}, "--time-limit is inf, expected 0.1 to 10000000 seconds"),
    ],
)
def test_a_request_that_cannot_be_is_not_made(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PrepareRequest(src="photos", dataset_dir=Path("set"), **values).check()
