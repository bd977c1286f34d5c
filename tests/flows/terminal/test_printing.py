"""What reaches a terminal: every character shows, none is obeyed, whatever the encoding."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import main
from flows.terminal.printing import guarded, json_text, visible
from flows.terminal.progress import counted
from pipeline.jobs.job import create_job
from pipeline.storage.ledger import FAILED, INGESTED, REJECTED, ItemRow, ScoreRow, UnitRow

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.jobs.job import Job
    from tests.conftest import SavePicture, TakePhoto

HOSTILE = "写真 ü\x1b[2J\x9b31m\r\n\u2028\u202egnp.\u2066exe\udce9.png"
SHOWN = r"写真 ü\x1b[2J\x9b31m\r\n\u2028\u202egnp.\u2066exe\xe9.png"
any_text = st.text(st.characters())


@given(any_text)
def test_nothing_that_a_terminal_obeys_is_left_and_all_else_is(text: str) -> None:
    shown = visible(text)
    kept = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert not set(kept) - {"\u200c", "\u200d"}
    assert text.isprintable() <= (shown == text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN),
        ("tab\there\x7f", r"tab\there\x7f"),
        ("\u200fleft\u202a\u061c\ufeff\u00ad", r"\u200fleft\u202a\u061c\ufeff\xad"),
        ("\U000e0041 tag", r"\U000e0041 tag"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🔧 ﬁ\u00a0\u3000\u202f√", "👩\u200d🔧 ﬁ\u00a0\u3000\u202f√"),
        (r"C:\x1b", r"C:\x1b"),
    ],
)
def test_what_has_no_sign_is_written_as_in_python(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(any_text, st.sampled_from(["utf-8", "UTF8", "ascii", "latin-1", "cp1252"]))
def test_json_says_any_text_in_any_encoding(text: str, encoding: str) -> None:
    before, stream = sys.stdout, io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    try:
        sys.stdout = stream
        said = json_text({text: [text]})
    finally:
        sys.stdout = before
    assert json.loads(said) == {text: [text]}
    assert [visible(line) for line in said.split("\n")] == said.split("\n")
    said.encode(encoding)
    assert said.isascii() or encoding.lower().startswith("utf")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job with items, failures and scores whose names and reasons are hostile."""
    made = create_job(tmp_path / "job", source="photos")
    ledger = made.open_ledger()
    # A database takes no half surrogate; the source has replaced it.
    name = HOSTILE.replace("\udce9", "")
    known = {"fingerprint": "f", "units": 1, "height": 8, "width": 8, "channels": 3}
    ledger.put_items(
        [
            ItemRow(item=name, state=INGESTED, dtype="uint8", **known),
            ItemRow(item=f"{name}2", state=REJECTED, error="PictureError", message=name),
        ]
    )
    ledger.put_units([UnitRow(item=name, number=0, fingerprint="f", state=FAILED, message=name)])
    sums = {"error_total": 5.0, "error_count": 100, "ssim_total": 9.0, "ssim_count": 10}
    ledger.put_scores(
        [ScoreRow(item=name, tile=0, kind="consistency", fingerprint="f", **sums)],
    )
    ledger.close()
    return made


def said_in(
    encoding: str, *words: object, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, bytes, bytes]:
    """Run a command whose terminal has `encoding`; return exit code, stdout and stderr."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n") for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        assert (sys.stdout, sys.stderr) == tuple(streams)
    raw = []
    for stream in streams:
        stream.flush()
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        raw.append(buffer.getvalue())
    return int(str(left.value.code)), raw[0], raw[1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
@pytest.mark.parametrize("words", [["status", "--items"], ["status"], ["report"]])
def test_commands_print_in_every_encoding_what_others_named(
    job: Job, words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = said_in(encoding, *words, job.folder, monkeypatch=monkeypatch)
    assert code == (3 if words[0] == "status" else 0)
    text = out.decode(encoding) + err.decode(encoding)
    assert "Traceback" not in text
    assert all(line == visible(line) for line in text.split("\n"))
    if "--items" in words:
        whole = SHOWN.replace(r"\xe9", "")
        wanted = whole.encode(encoding, "backslashreplace").decode(encoding)
        # The item, its failed tile with the reason, and the rejected one twice with its own.
        assert text.count(wanted) == 6


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_the_json_of_a_command_is_json_in_every_encoding(
    job: Job, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("status", "--json", "--items", job.folder)
    code, out, err = said_in(encoding, *words, monkeypatch=monkeypatch)
    document = json.loads(out.decode(encoding))
    assert (code, err) == (3, b"")
    name = HOSTILE.replace("\udce9", "")
    assert [row["item"] for row in document["by_item"]] == [name, f"{name}2"]
    assert out.isascii() or encoding == "utf-8"


def test_a_mistake_on_the_command_line_shows_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["status", tmp_path / HOSTILE], [HOSTILE], ["status", "--" + HOSTILE, "job"]):
        code, out, err = said_in("latin-1", *words, monkeypatch=monkeypatch)
        assert (code, out) == (2, b"")
        (line,) = err.decode("latin-1").splitlines()
        assert r"\u5199\u771f ü\x1b[2J\x9b31m" in line
        assert line == visible(line)


def test_a_bug_shows_its_traceback_without_obeying_it(tmp_path: Path) -> None:
    script = f"""
from flows import cli
import pipeline.jobs.job
def fail(folder):
    raise ZeroDivisionError({HOSTILE!r})
pipeline.jobs.job.open_job = fail
cli.main(["status", "x"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    err = done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" in err
    assert r"ü\x1b[2J\x9b31m\r" in err
    assert all(line == visible(line) for line in err.split("\n"))


def read_to_the_end(terminal: int, seen: bytearray) -> None:
    """Collect what is written to a terminal until its other end is closed."""
    with suppress(OSError):  # How Linux says that it is.
        while data := os.read(terminal, 65536):
            seen += data
    os.close(terminal)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_messages_beside_a_progress_bar_are_not_obeyed_either(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    seen = bytearray()
    reader = threading.Thread(target=read_to_the_end, args=(master, seen))
    reader.start()
    with os.fdopen(slave, "w", encoding=encoding) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with guarded(), counted("ingest", "files") as tell:
            click.echo("esc\x1b[31mred", err=True, color=True)
            tell(2, 2)
    reader.join()
    text = seen.decode(encoding)
    assert "2/2" in text
    # The bar itself is drawn with what the terminal has.
    assert ("\u2501" in text) == (encoding == "utf-8")
    assert r"\u25" not in text
    assert r"esc\x1b[31mred" in text
    assert "esc\x1b" not in text


CLOSED = """
import os, sys
from flows.terminal.printing import guarded
with guarded():
    print("nowhere")
    print("nowhere", file=sys.stderr)
    file = os.open("file", os.O_CREAT | os.O_WRONLY)
    os.write(2, b"to stderr by its number")
    os.system("echo of a child >&2")
sys.exit(file < 3)
"""


def test_a_closed_stream_leads_nowhere_and_into_no_file(tmp_path: Path) -> None:
    words = f"exec {sys.executable} -c '{CLOSED}' <&- >&- 2>&-"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, env={"PYTHONPATH": path}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(job: Job) -> None:
    ledger = job.open_ledger()
    ledger.put_items(ItemRow(item=f"{n:080}", state=INGESTED) for n in range(3000))
    ledger.close()
    status = f"from flows.cli import main; main(['status', '--items', '{job.folder}'])"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{status}" | head -c 1; exit ${{PIPESTATUS[0]}}'],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (1, 1, b"")


# The locale

NAMES = r"""
import os, sys
from pathlib import Path
from flows.terminal.utf8 import restart_in_utf8
restart_in_utf8()
Path("\u5199\u771f.png").touch()
print(sys.getfilesystemencoding(), sys.stdout.encoding, sys.argv[1:] == ["\xe4"])
print("\xfc\u5199", ascii(sorted(os.listdir(b"."))))
"""


def python_in(locale: dict[str, str], folder: Path, *words: str) -> list[str]:
    """Run Python in a locale; return the lines that it prints, which must be ASCII."""
    own = {n: v for n, v in os.environ.items() if not n.startswith(("LC_", "PYTHONUTF8", "LANG"))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**own, "PYTHONPATH": os.pathsep.join(sys.path), **locale},
        capture_output=True,
        check=True,
    )
    return done.stdout.decode("ascii").splitlines()


def test_names_of_files_are_utf8_where_the_locale_is_not(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    first, second = python_in(plain, tmp_path, "-c", NAMES, "ä")
    assert first in ("utf-8 ascii True", "utf-8 us-ascii True")
    assert second == rf"\xfc\u5199 {['写真.png'.encode()]!r}"
    assert os.listdir(tmp_path) == ["写真.png"]  # noqa: PTH208


def test_where_names_are_utf8_nothing_begins_again(tmp_path: Path) -> None:
    script = "import os; os.execv = None; from flows.terminal.utf8 import restart_in_utf8 as r; r()"
    assert python_in({"LC_ALL": "C", "PYTHONUTF8": "1"}, tmp_path, "-c", script) == []
    assert python_in({"LC_ALL": "C.UTF-8"}, tmp_path, "-c", script) == []


@pytest.mark.slow
def test_a_job_is_continued_in_another_locale_as_the_same(
    tmp_path: Path, photo: TakePhoto, save: SavePicture
) -> None:
    named = save(tmp_path / "a.png", photo(20, 30)).read_bytes()
    source = os.fsencode(tmp_path / "source")
    os.mkdir(source)  # noqa: PTH102
    for name in ("写真😀.png".encode(), b"l\xe4tin.png"):
        with open(os.path.join(source, name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(named)
    words = ["upscale", "source", "job", "--export", "out", "--model", "nearest-x2", "--json"]
    command = ["-c", "from flows.cli import main; main()", *words, "--workers", "1"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    first = json.loads("\n".join(python_in(plain, tmp_path, *command)))
    assert (first["items"]["done"], first["computed_units"]) == (2, 2)
    said = python_in({"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}, tmp_path, *command)
    again = json.loads("\n".join(said))
    assert (again["items"]["done"], again["computed_units"]) == (2, 0)
    written = sorted(os.listdir(tmp_path / "out"))  # noqa: PTH208
    assert written == ["l\\xe4tin~67e48ef3.png", "写真😀.png"]


def test_a_logger_that_closes_what_it_wrote_to_closes_no_stream_of_the_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with guarded():
        sys.stderr.close()
        sys.stderr.write("still here\n")
    assert capsys.readouterr().err == "still here\n"
