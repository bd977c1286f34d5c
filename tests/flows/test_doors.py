"""One way in: the command line and the flow ask for the same things, and get the same answers."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from flows import upscale as flow_of_upscaling
from flows.commands.jobs import upscale as command
from pipeline.errors import UsageError
from pipeline.jobs.job import open_job
from pipeline.jobs.request import UpscaleRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

flow = flow_of_upscaling.upscale_archive.fn
NAMES = [field.name for field in fields(UpscaleRequest)]
OTHER_THAN_DEFAULT = {
    "model": "bicubic-x2",
    "names": "cp932",
    "tile_px": 64,
    "halo": 12,
    "device": "cpu",
    "backend": "torch",
    "precision": "fp32",
    "limit_s": 60.0,
    "cluster": "tcp://scheduler:8786",
    "workers": 2,
    "reference": "originals",
    "export_dir": Path("out"),
    "file_format": "png",
    "overwrite": True,
    "prune": True,
    "ledger": "sqlite:///ledger.db",
}


class RequestSeen(Exception):  # noqa: N818 - it is none
    def __init__(self, request: UpscaleRequest) -> None:
        self.request = request


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


def words_of(asked: dict[str, Any]) -> list[str]:
    """Return the words of the command line that ask for the same."""
    words = []
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name in asked:
            value = [] if parameter.is_flag else [str(asked[parameter.name])]
            words += [parameter.opts[0], *value]
    return words


def test_both_doors_have_every_option_of_the_request_and_no_other() -> None:
    assert set(inspect.signature(flow).parameters) == set(NAMES)
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
    flowed = request_of(lambda: flow(src="photos", job_dir=Path("job"), **asked))
    assert typed == flowed == expected
    for name, value in asked.items():
        assert getattr(UpscaleRequest, name) != value, "or the test shows nothing"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"file_format": "png"}, "--export"),
        ({"overwrite": True}, "--export"),
        ({"prune": True}, "--export"),
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
        ({"model": "span-x5"}, "span-x5"),
        ({"workers": 0}, "0"),
        ({"workers": 2, "cluster": "tcp://scheduler:8786"}, "local cluster"),
        ({"ledger": "nonsense"}, "the ledger's URL"),
        ({"ledger": "sqlite://"}, "in memory"),
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
    for name in ("ingest_pictures", "upscale_tiles", "score_tiles", "export_pictures"):
        monkeypatch.setattr(flow_of_upscaling, name, getattr(flow_of_upscaling, name).fn)
    monkeypatch.setattr(flow_of_upscaling, "report_job", flow_of_upscaling.report_job.fn)

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
