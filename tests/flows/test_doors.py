"""One way in: the command line and the flow ask for the same things, and get the same answers."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from prefect.states import State
from prefect.utilities.callables import parameter_schema

import pipeline.dataset.run
import pipeline.jobs.perform
import pipeline.training.run
from flows import main_job, nightly, prepare, rerun, run_listening, score, tasks, train
from flows import upscale as flow_of_upscaling
from flows.cli import main
from flows.commands.jobs import upscale as command
from flows.endings import IncompleteError
from pipeline.dataset.request import PrepareRequest
from pipeline.errors import UsageError
from pipeline.jobs.job import open_job
from pipeline.jobs.request import IngestRequest, RerunRequest, ScoreRequest, UpscaleRequest
from pipeline.request_fields import help_of, is_needed
from pipeline.training.request import TrainRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

FLOWS = {
    "upscale": flow_of_upscaling.upscale_archive,
    "nightly": nightly.nightly,
    "rerun": rerun.rerun_failed,
    "score": score.score_archive,
    "prepare": prepare.prepare_dataset,
    "train": train.train_model,
}
NAMES = [field.name for field in fields(UpscaleRequest)]
OTHER_THAN_DEFAULT = {
    "model": "bicubic-x2",
    "restore": 0.5,
    "names": "cp932",
    "tile_px": 64,
    "halo": 12,
    "device": "cpu",
    "backend": "torch",
    "precision": "fp32",
    "instructions": "avx2",
    "limit_s": 60.0,
    "cluster": "tcp://scheduler:8786",
    "clusters": Path("clusters.toml"),
    "workers": 2,
    "reference": "originals",
    "export_dir": Path("out"),
    "file_format": "png",
    "overwrite": True,
    "prune": True,
    "keep": "export",
    "codec": "zstd",
    "ledger": "sqlite:///ledger.db",
    "until": "06:30",
    "budget": "5h",
    "timezone": "Europe/Berlin",
}


OF_OTHERS = {
    "rerun": {
        "item": "a*",
        "error": "memory",
        "stale": True,
        "model": "bicubic-x2",
        "backend": "torch",
        "cluster": "tcp://scheduler:8786",
        "clusters": Path("clusters.toml"),
        "workers": 2,
    },
    "score": {
        "reference": "originals",
        "names": "cp932",
        "cluster": "tcp://scheduler:8786",
        "clusters": Path("clusters.toml"),
        "workers": 2,
    },
    "prepare": {
        "recipe": "span-x2",
        "settings": ("scale=2", "patch_px=[64, 64]"),
        "lr_sources": ("lr=small",),
        "licence": "CC0",
        "names": "cp932",
        "read_back": True,
        "prune": True,
        "unchecked": True,
        "ledger": "sqlite:////elsewhere.sqlite",
        "limit_s": 60.0,
        "cluster": "tcp://scheduler:8786",
        "clusters": Path("clusters.toml"),
        "workers": 2,
    },
    "train": {
        "recipe": "span-x2",
        "settings": ("steps=2", "scale=2"),
        "features": (Path("features"),),
        "device": "cpu",
        "readers": 0,
        "memory": "disk",
        "resume": True,
    },
}
PLACES = {
    "rerun": {"job_dir": Path("job")},
    "score": {"job_dir": Path("job")},
    "prepare": {"src": "photos", "dataset_dir": Path("dataset")},
    "train": {"src": "photos", "out_dir": Path("out")},
}
REQUESTS: dict[str, type[Any]] = {
    "upscale": UpscaleRequest,
    "nightly": UpscaleRequest,
    "rerun": RerunRequest,
    "score": ScoreRequest,
    "prepare": PrepareRequest,
    "train": TrainRequest,
}


class RequestSeen(Exception):  # noqa: N818 - it is none
    def __init__(self, request: Any) -> None:
        self.request = request


def flow(name: str = "upscale", **asked: Any) -> Any:
    """Return what a flow came to, or raise why it came to nothing."""
    state = FLOWS[name].fn(**asked)
    assert isinstance(state, State)
    if isinstance(state.data, IncompleteError):
        return state.data.document
    if isinstance(state.data, Exception):
        raise state.data
    return state.data


@pytest.fixture
def request_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], UpscaleRequest]:
    """Return the request that a door checks, at which it ends."""

    def see(request: UpscaleRequest) -> None:
        raise RequestSeen(request)

    monkeypatch.setattr(UpscaleRequest, "check", see)

    def ask(door: Callable[[], object]) -> UpscaleRequest:
        with pytest.raises(RequestSeen) as seen:
            door()
        return seen.value.request

    return ask


def words_of(asked: dict[str, Any], command: click.Command = command) -> list[str]:
    """Return the words of the command line that ask for the same."""
    words = []
    for parameter in command.params:
        name = parameter.name
        if not isinstance(parameter, click.Option) or name not in asked:
            continue
        values = asked[name] if parameter.multiple else [asked[name]]
        for value in values:
            words += [parameter.opts[0], *([] if parameter.is_flag else [str(value)])]
    return words


def test_both_doors_have_every_option_of_the_request_and_no_other() -> None:
    for name in ("upscale", "nightly"):
        assert set(inspect.signature(FLOWS[name].fn).parameters) == set(NAMES)
    assert {parameter.name for parameter in command.params} - {"as_json"} == set(NAMES)
    assert {"src", "job_dir", *OTHER_THAN_DEFAULT} == set(NAMES)


@pytest.mark.parametrize(
    "asked",
    [{}, *({name: value} for name, value in OTHER_THAN_DEFAULT.items()), OTHER_THAN_DEFAULT],
    ids=["nothing", *OTHER_THAN_DEFAULT, "everything"],
)
def test_every_option_means_the_same_through_both_doors(
    asked: dict[str, Any],
    request_of: Callable[[Callable[[], object]], UpscaleRequest],
    upres: Command,
) -> None:
    expected = UpscaleRequest(src="photos", job_dir=Path("job"), **asked)
    typed = request_of(lambda: upres("upscale", "photos", "job", *words_of(asked)))
    flowed, nightly = (
        request_of(lambda name=name: flow(name, src="photos", job_dir=Path("job"), **asked))
        for name in ("upscale", "nightly")
    )
    assert typed == flowed == nightly == expected
    for name, value in asked.items():
        assert getattr(UpscaleRequest, name) != value, "or the test shows nothing"


@pytest.fixture
def other_request_of(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[], object]], Any]:
    """Return the request that reaches the work of a command or flow, which ends there."""

    def see(request: Any, *_rest: Any, **_options: Any) -> None:
        raise RequestSeen(request)

    for module, name in (
        (pipeline.jobs.perform, "rerun_job"),
        (pipeline.jobs.perform, "score_job"),
        (pipeline.dataset.run, "prepare_dataset"),
        (pipeline.training.run, "run_training"),
    ):
        monkeypatch.setattr(module, name, see)
    for module, name in (
        (rerun, "rerun_tiles"),
        (score, "score_all"),
        (prepare, "prepare_patches"),
        (train, "train_network"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name).fn)
    # The flows would wait for a scheduler that is not there, half a minute each.
    monkeypatch.setattr(run_listening, "await_scheduler", lambda *_rest, **_options: None)

    def ask(door: Callable[[], object]) -> Any:
        with pytest.raises(RequestSeen) as seen:
            door()
        return seen.value.request

    return ask


def asked_of(name: str) -> list[Any]:
    """Return each option by itself, and all of them, as what a command can be asked."""
    every = OF_OTHERS[name]
    together = {key: value for key, value in every.items() if key != "workers"}
    alone = [{key: value} for key, value in every.items() if key != "unchecked"]
    return [{}, *alone, together]


@pytest.mark.parametrize(
    ("name", "asked"), [(name, asked) for name in OF_OTHERS for asked in asked_of(name)]
)
def test_every_option_of_the_other_commands_means_the_same_in_their_flows(
    name: str,
    asked: dict[str, Any],
    other_request_of: Callable[[Callable[[], object]], Any],
    upres: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "features").mkdir()
    monkeypatch.chdir(tmp_path)
    places, command = PLACES[name], main.commands[name]
    words = list(places.values())
    if name == "train":
        words = ["photos", "--out", "out"]
    typed = other_request_of(lambda: upres(name, *words, *words_of(asked, command)))
    flowed = other_request_of(lambda: flow(name, **places, **asked))
    assert typed == flowed == REQUESTS[name](**places, **asked)
    assert type(typed) is type(flowed) is REQUESTS[name]
    assert (flowed != other_request_of(lambda: flow(name, **places))) == bool(asked)


@pytest.mark.parametrize("name", OF_OTHERS)
def test_the_other_commands_and_their_flows_have_the_same_options(name: str) -> None:
    parameters = set(inspect.signature(FLOWS[name].fn).parameters)
    assert parameters == {*PLACES[name], *OF_OTHERS[name]}
    assert {field.name for field in fields(REQUESTS[name])} == parameters
    of_command = {parameter.name for parameter in main.commands[name].params}
    # What a command prints is no matter of its flow, and a preview is for a person at a terminal.
    assert of_command - {"as_json", "preview"} == parameters


@pytest.mark.parametrize("name", ["ingest", "upscale", *OF_OTHERS])
def test_defaults_and_help_texts_of_a_command_are_those_of_its_request(name: str) -> None:
    request = REQUESTS.get(name, IngestRequest)
    options = {p.name: p for p in main.commands[name].params if isinstance(p, click.Option)}
    shared = [field for field in fields(request) if field.name in options]
    assert shared
    for field in shared:
        option = options[field.name]
        assert option.help == help_of(request, field.name)
        assert option.required is is_needed(field)
        assert is_needed(field) or option.default == field.default


@pytest.mark.parametrize("name", FLOWS)
def test_defaults_and_help_texts_of_a_flow_are_those_of_its_request(name: str) -> None:
    request, schema = REQUESTS[name], parameter_schema(FLOWS[name].fn)
    parameters = inspect.signature(FLOWS[name].fn).parameters
    for field in fields(request):
        default = inspect.Parameter.empty if is_needed(field) else field.default
        assert parameters[field.name].default == default
        told, said = (
            re.sub(r"--[a-z-]+|[a-z_]+", "", text).split()
            for text in (schema.properties[field.name]["description"], help_of(request, field.name))
        )
        assert told == said, "but for the names of options, which are fields in a form"


@pytest.mark.parametrize("name", FLOWS)
def test_the_form_of_a_flow_says_what_every_field_means(name: str) -> None:
    schema = parameter_schema(FLOWS[name].fn)
    for parameter, field in schema.properties.items():
        assert field["description"][0].isalpha(), parameter
        assert field["description"].endswith((".", "]")), parameter
        assert "--" not in field["description"], "a form has no options"
        assert "type" in field or "anyOf" in field
    assert len(schema.required) in (1, 2)


def test_a_form_says_what_the_command_says() -> None:
    told = parameter_schema(FLOWS["nightly"].fn).properties
    assert told["tile_px"]["description"] == "Side of a tile, in LR pixels."
    assert told["overwrite"]["description"].startswith("Replace files in the way of an export")
    assert told["timezone"]["description"].startswith("Time zone of until, such as Europe/Berlin.")
    assert list(told)[:3] == ["src", "job_dir", "model"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"file_format": "png"}, "--export"),
        ({"overwrite": True}, "--export"),
        ({"prune": True}, "--export"),
        ({"keep": "export"}, "--keep export goes with --export DIR; add that"),
        ({"keep": "nothing"}, "nothing"),
        ({"export_dir": "in/up"}, "is in the source"),
        ({"export_dir": "originals/up", "reference": "originals"}, "is in --reference"),
        ({"export_dir": "in/a.png"}, "is not a folder"),
        ({"export_dir": "out", "file_format": "gif"}, "gif"),
        ({"reference": "nowhere"}, "nowhere"),
        ({"src": "nowhere"}, "nowhere"),
        ({"tile_px": 15}, "16"),
        ({"tile_px": 8193}, "8192"),
        ({"halo": "wide"}, "wide"),
        ({"halo": -1}, "-1"),
        ({"limit_s": 0.0}, "0"),
        ({"limit_s": float("nan")}, "nan"),
        ({"names": "utf-16"}, "utf-16"),
        ({"device": "tpu"}, "tpu"),
        ({"backend": "abacus"}, "abacus"),
        ({"precision": "fp8"}, "fp8"),
        ({"instructions": "avx3"}, "avx512_core"),
        ({"model": "span-x5"}, "span-x5"),
        ({"workers": 0}, "0"),
        ({"workers": 2, "cluster": "tcp://scheduler:8786"}, "local cluster"),
        ({"ledger": "nonsense"}, "the ledger's URL"),
        ({"ledger": "sqlite://"}, "in memory"),
        ({"until": "25:00"}, "06:30"),
        ({"until": "6"}, "06:30"),
        ({"budget": "soon"}, "5h or 90m"),
        ({"budget": "0s"}, "5h or 90m"),
        ({"budget": "99999999999h"}, "a year"),
        ({"until": "06:30", "timezone": "Europe/Nowhere"}, "Europe/Berlin"),
        ({"until": "06:30", "timezone": "../../etc/passwd"}, "Europe/Berlin"),
        ({"timezone": "Europe/Berlin"}, "--until"),
    ],
)
def test_what_cannot_be_is_refused_at_both_doors_before_anything_is_made(
    asked: dict[str, Any],
    says: str,
    upres: Command,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tmp_path / "in" / "a.png", photo(20, 20))
    save(tmp_path / "originals" / "a.png", photo(40, 40))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    asked = {"src": "in", "job_dir": Path("job"), "model": "bicubic-x2"} | asked
    if "export_dir" in asked:
        asked["export_dir"] = Path(asked["export_dir"])
    typed = upres("upscale", asked["src"], asked["job_dir"], *words_of(asked))
    assert typed.code == 2, typed
    assert says in typed.err
    with pytest.raises(UsageError, match=says):
        flow(**asked)
    assert sorted(tmp_path.rglob("*")) == before


def test_both_doors_do_the_same_job(
    upres: Command,
    cluster: tuple[str, str],
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    digest: Digest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for n in range(2):
        save(tmp_path / "in" / f"{n}.png", photo(40, 40, at=n))
        save(tmp_path / "originals" / f"{n}.png", photo(80, 80, at=n))
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    # The tasks as plain functions: a Prefect server takes long to start, and changes nothing here.
    for name in (
        "ingest_pictures", "upscale_tiles", "score_tiles", "export_pictures", "let_pixels_go",
        "report_job",
    ):  # fmt: skip
        monkeypatch.setattr(main_job, name, getattr(tasks, name).fn)

    def asked(door: str) -> dict[str, Any]:
        return {
            "src": str(tmp_path / "in"),
            "job_dir": tmp_path / door / "job",
            "model": "bicubic-x2",
            "tile_px": 32,
            "device": "cpu",
            "precision": "fp32",
            "limit_s": 45.0,
            "reference": str(tmp_path / "originals"),
            "export_dir": tmp_path / door / "out",
            "file_format": "tiff",
            "cluster": cluster[1],
            "ledger": f"sqlite:///{tmp_path / door / 'own ledger.db'}",
        }

    (tmp_path / "typed").mkdir()
    (tmp_path / "flowed").mkdir()
    of_command = asked("typed")
    said = upres(
        "upscale", of_command["src"], of_command["job_dir"], *words_of(of_command), "--json"
    )
    of_flow = flow(**asked("flowed"))
    assert said.code == 3
    assert of_flow.pop("report") == str(tmp_path / "flowed" / "job" / "report.html")
    scores = of_flow.pop("scores")
    assert [item["item"] for item in scores["items"]] == ["0.png", "1.png"]
    assert of_flow["export"].pop("failures") == []
    assert of_flow.pop("job") == str(tmp_path / "flowed" / "job")
    assert of_flow == {key: value for key, value in said.document.items() if key != "job"}
    assert of_flow["computed_units"] == 8
    assert [failure["item"] for failure in of_flow["failures"]] == ["broken.png"]
    typed, flowed = (digest(tmp_path / door / "out") for door in ("typed", "flowed"))
    assert sorted(typed) == ["0.tif", "1.tif"]
    assert typed == flowed
    for door in ("typed", "flowed"):
        assert (tmp_path / door / "own ledger.db").is_file()
        assert not (tmp_path / door / "job" / "ledger.sqlite").exists()
        ledger = open_job(tmp_path / door / "job").open_ledger()
        assert (ledger.upscaling() or {})["limit_s"] == 45.0
        ledger.close()
