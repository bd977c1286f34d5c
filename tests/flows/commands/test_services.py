"""The commands of every night say what is missing, before a server is asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from flows.commands.services import _line, _print_known
from flows.services.deployments import Listed
from flows.services.notification import Notification
from pipeline.errors import UsageError
from tests.fresh_process import printed_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Command


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPRES_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "SRC JOB --at TIME"),
        (["photos", "job"], "--at TIME is missing"),
        (["photos", "--at", "02:00"], "JOB is missing"),
        (["--at", "02:00"], "SRC is missing"),
        (["--list", "--remove", "job"], "or --remove NAME"),
        (["photos", "job", "--at", "02:00", "--list"], "or --list"),
        (["photos", "job", "--at", "24:00"], "24:00"),
        (["photos", "job", "--at", "02:00", "--until", "noon"], "noon"),
        (["photos", "job", "--at", "02:00", "--timezone", "Mars/North"], "Mars/North"),
        (["nowhere", "job", "--at", "02:00"], "nowhere"),
        (["", "job", "--at", "02:00"], "the source is empty"),
        (["photos", "job", "--at", "02:00", "--until", "2:00"], "--until 2:00 is when the run beg"),
        (["photos", "photos", "--at", "02:00"], "photos exists and is not a job; name a new or"),
        (["photos", "", "--at", "02:00"], "exists and is not a job; name a new or empty folder"),
        (["photos", os.fsdecode(b"j\xe9b"), "--at", "02:00"], "not UTF-8"),
        (["photos", "job", "--at", "02:00", "--model", "span-x5"], "no model is called 'span-x5'"),
        (["photos", "job", "--at", "02:00", "--restore", "7"], "strength is 7.0, expected 0 to 1"),
        (["photos", "job", "--at", "02:00", "--ledger", "here"], "URL cannot be read"),
        (["photos", "job", "--at", "02:00", "--ledger", "sqlite:////no/where/l"], "not a folder"),
        (["photos", "job", "--at", "02:00", "--ledger", "mysql://host/db"], "expected sqlite or"),
        (["photos", "job", "--at", "02:00", "--cluster", "nonsense"], "nonsense is a name"),
        (["photos", "job", "--at", "02:00", "--cluster", "tcp://nonsense"], "expected local, the"),
        (["photos", "job", "--at", "02:00", "--clusters", "mine.toml"], "mine.toml is not a file"),
        (["photos", "job", "--at", "02:00", "--reference", "hr"], "/hr does not exist"),
        (["photos", "job", "--at", "02:00", "--model", "own.safetensors"], "no model is called"),
        (["photos", "job", "--at", "02:00", "--recipe", "span-x4"], "No such option '--recipe'"),
        (["--list", "--model", "span-x4"], "or --list"),
        (["--model", "span-x4"], "SRC is missing"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_one_line(
    words: list[str], says: str, upres: Command, tmp_path: Path
) -> None:
    said = upres("schedule", *words)
    assert said.code == 2, said
    assert says in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["photos", "job", "--ledger", "postgresql://me:T0KEN@host/db"],
        ["photos", "job", "--ledger", "postgresql://host/db?password=T0KEN"],
        ["s3://me:T0KEN@bucket/photos", "job"],
        ["photos", "job", "--cluster", "tls://me:T0KEN@host:8786"],
    ],
)
@pytest.mark.parametrize("server", ["", "http://127.0.0.1:9/api"], ids=["own", "configured"])
def test_a_password_that_prefects_pages_would_show_is_refused_and_not_repeated(
    words: list[str], server: str, upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    said = upres("schedule", *words, "--at", "02:00")
    assert said.code == 2
    assert "holds a password, which the pages would show" in said.err
    assert "T0KEN" not in said.err
    assert len(said.err.splitlines()) == 1


def test_an_address_with_a_password_is_no_place_and_not_repeated(upres: Command) -> None:
    words = ["photos", "job", "--export", "s3://me:T0KEN@bucket/photos"]
    said = upres("schedule", *words, "--at", "02:00")
    assert said.code == 2
    assert "s3://bucket names no bucket, expected s3://BUCKET/PREFIX" in said.err
    assert "T0KEN" not in said.err
    assert len(said.err.splitlines()) == 1


def test_a_folder_that_may_not_be_written_is_refused_when_it_is_scheduled(
    upres: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The account of these tests may be root, to whom nothing is closed.
    monkeypatch.setattr(os, "access", lambda place, _mode: place != tmp_path / "closed")
    (tmp_path / "closed").mkdir()
    for words in (["closed/new/job"], ["job", "--export", "closed/images"]):
        said = upres("schedule", "photos", *words, "--at", "02:00")
        assert said.code == 2, said
        (line,) = said.err.splitlines()
        reason = f"cannot be written, as {tmp_path}/closed is read-only"
        assert f"{tmp_path / words[-1]} {reason}" in line
    assert not (tmp_path / "home").exists()


def listed(*, at: str, until: str) -> Listed:
    return Listed(
        name="Übersee-Fotos", at=at, timezone="UTC", until=until, src="/my photos",
        job_dir="/Übersee Fotos", next_start=None, last_state="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("at", "until", "says"),
    [
        ("02:00", "06:30", "02:00 until 06:30 UTC, "),
        ("02:00", "", "02:00 UTC, "),
        ("22:00", "6:30", "22:00 until 6:30 the next day UTC, "),
        ("06:30", "02:00", "06:30 until 02:00 the next day UTC, "),
    ],
)
def test_a_schedule_that_ends_on_the_next_day_is_shown_so(at: str, until: str, says: str) -> None:
    line = f"Übersee-Fotos: {says}/my photos into /Übersee Fotos"
    assert _line(listed(at=at, until=until)) == line


def test_a_configured_server_that_is_not_there_is_named(
    upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    said = upres("schedule", "--list")
    assert said.code == 1
    assert "PREFECT_API_URL is http://127.0.0.1:9/api, and no server answers" in said.err


@pytest.mark.parametrize("url", ["nonsense", "http://[::1/api", "http://host:port/api"])
@pytest.mark.parametrize("words", [["schedule", "--list"], ["serve"]])
def test_an_address_of_a_server_that_cannot_be_is_refused_in_one_line(
    url: str, words: list[str], upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    said = upres(*words)
    assert said.code == 1
    assert f"upres: PREFECT_API_URL is {url}, and no server answers there (" in said.err
    assert "Traceback" not in said.err


@pytest.fixture(params=[200, 404])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a web server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Prefect</title>")

        def log_message(self, *_words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_web_page_is_not_taken_for_a_server(
    stranger: str, upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", stranger)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    said = upres("schedule", "--list")
    assert said.code == 1
    assert said.err.splitlines() == [
        f"upres: PREFECT_API_URL is {stranger}, where no Prefect server shows its version; the "
        "address of a server ends in /api, such as http://127.0.0.1:4200/api"
    ]


def test_a_port_that_speaks_no_http_is_not_taken_for_a_server(
    upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            other, _ = server.accept()
            with other:
                other.recv(1000)
                other.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        said = upres("schedule", "--list")
        thread.join()
    assert said.code == 1
    assert f"PREFECT_API_URL is {url}, and no server answers there (SSH-2.0" in said.err
    assert len(said.err.splitlines()) == 1


def test_notifications_are_listed_as_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    _print_known(
        {
            "upres-notify-2": "failed: smtp://host",
            "upres-notify-1": "failed, finished: http://[::1]",
        },
        as_json=True,
    )
    assert json.loads(capsys.readouterr().out) == {
        "notifications": [
            {"name": "upres-notify-1", "on": ["failed", "finished"], "to": "http://[::1]"},
            {"name": "upres-notify-2", "on": ["failed"], "to": "smtp://host"},
        ]
    }


@pytest.mark.parametrize(
    ("on", "to", "says"),
    [
        (("broken",), "https://example.org/T0KEN", "--on is 'broken'"),
        ((), "https://example.org/T0KEN", "--on is ''"),
        (("failed",), "example.org/T0KEN", "--to is not an address"),
        (("failed",), "ftp://me:T0KEN@example.org", "--to is not an address"),
        (("failed",), "https://", "--to is not an address"),
        (("failed",), "https://host:port/T0KEN", "--to is not an address"),
        (("failed",), "smtp://me:T0KEN@example.org", "from=ADDRESS and to=ADDRESS"),
        (("failed",), "smtp://me:T0KEN@example.org/?from=a@b.org&to=nobody", "to=ADDRESS"),
    ],
)
def test_a_notification_that_cannot_be_is_refused_without_its_secrets(
    on: tuple[str, ...], to: str, says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Notification(on=on, to=to)
    assert says in str(refused.value)
    assert "T0KEN" not in str(refused.value)


def test_a_notification_that_cannot_be_starts_no_server(upres: Command, tmp_path: Path) -> None:
    said = upres("notify", "--on", "broken", "--to", "https://example.org/T0KEN")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "home").exists()


def test_slack_is_known_by_its_host_or_by_the_option() -> None:
    assert Notification(on=("failed",), to="https://hooks.slack.com/services/T/B/x").slack
    assert Notification(on=("failed",), to="https://chat.org/x", body="slack").slack
    assert not Notification(on=("failed",), to="https://chat.org/hooks.slack.com").slack
    assert not Notification(on=("failed",), to="https://hooks.slack.com/x", body="json").slack


def test_commands_import_no_prefect_before_they_need_it(tmp_path: Path) -> None:
    script = (
        "import sys; from click.testing import CliRunner; from flows.cli import main\n"
        "for words in (['--help'], ['serve', '--help'], ['schedule', 'photos'], ['status', 'x']):\n"
        "    CliRunner().invoke(main, words)\n"
        "assert 'prefect' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))


def test_flows_load_nothing_that_computes_before_they_begin() -> None:
    """Whoever serves or schedules loads all of them: torch alone takes two seconds and 150 MB."""
    script = (
        "import sys\n"
        "from importlib import import_module\n"
        "heavy = {'dask', 'distributed', 'matplotlib', 'numpy', 'openvino', 'PIL', 'sqlalchemy',\n"
        "    'tensorstore', 'torch', 'zarr'}\n"
        "from flows.services.deployments import ENTRYPOINTS\n"
        "for name in ENTRYPOINTS.values():\n"
        "    import_module(name.partition(':')[0])\n"
        "    assert not heavy & set(sys.modules), (name, heavy & set(sys.modules))\n"
        "print(len(ENTRYPOINTS))"
    )
    assert printed_by(script) == ("6\n", "")


@pytest.mark.parametrize("asked", ["", ", model='span-x2'"], ids=["default", "shipped"])
def test_a_job_of_a_model_that_comes_with_upres_is_checked_without_torch(asked: str) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from flows.services.scheduling import check_job\n"
        "from pipeline.jobs.request import UpscaleRequest\n"
        f"check_job(UpscaleRequest(src='photos', job_dir=Path('job'){asked}), '02:00')\n"
        "print(sorted({'torch', 'prefect', 'matplotlib'} & set(sys.modules)))"
    )
    assert printed_by(script) == ("[]\n", "")
