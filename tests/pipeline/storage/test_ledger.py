"""The ledger: what it counts as done is done under the fingerprint wanted now, job by job."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LedgerError
from pipeline.storage.ledger import (
    DONE,
    FAILED,
    FILE_NAME,
    INGESTED,
    REJECTED,
    ExportRow,
    ItemCount,
    ItemRow,
    Ledger,
    ScoreRow,
    UnitRow,
)
from pipeline.storage.ledger.messages import explain
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A = ItemRow(item="a", state=INGESTED, sha256="1", height=4, width=5, fingerprint="f", units=4)
U = UnitRow(item="a", number=0, fingerprint="f", state=DONE)
S = ScoreRow(
    item="a",
    tile=0,
    kind="reference",
    fingerprint="f",
    error_total=2.5,
    error_count=10,
    ssim_total=9.5,
    ssim_count=10,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open_file(tmp_path / FILE_NAME, job="j")
    yield opened
    opened.close()


def count(ledger: Ledger, item: str = "a") -> ItemCount:
    return next(c for c in ledger.count_items() if c.item == item)


# --- rows --------------------------------------------------------------------------------------


def test_a_second_put_replaces_the_first(ledger: Ledger) -> None:
    ledger.put_items([A])
    changed = replace(A, sha256="2", state=REJECTED, error="PictureError", message="no")
    ledger.put_items([changed])
    assert ledger.items() == [changed]
    ledger.put_units([replace(U, state=FAILED, error="OSError"), U])
    assert ledger.tiles_of(A, DONE) == {0}
    assert ledger.tiles_of(A, FAILED) == set()
    ledger.put_scores([S])
    ledger.put_scores([replace(S, error_total=1.0)])
    ledger.put_items([A])
    assert ledger.scores() == [replace(S, error_total=1.0)]


def test_nothing_is_put_where_nothing_is_given(ledger: Ledger) -> None:
    ledger.put_items([])
    ledger.put_units(iter(()))
    ledger.put_scores([])
    assert ledger.items() == []
    assert list(ledger.count_items()) == []


def test_rows_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    first = Ledger.open_file(path, job="j")
    first.put_items([A])
    first.put_units([U])
    # Not closed: another reader sees what was put, as after kill -9.
    second = Ledger.open_file(path, job="j")
    assert second.items() == [A]
    assert second.done_units() == [U]
    first.close()
    second.close()


def test_items_are_sorted_and_chosen_by_state(ledger: Ledger) -> None:
    rows = [
        replace(A, item=i, state=s)
        for i, s in (("b", REJECTED), ("ä", INGESTED), ("a/c", INGESTED))
    ]
    ledger.put_items(rows)
    assert [r.item for r in ledger.items()] == ["a/c", "b", "ä"]
    assert [r.item for r in ledger.items(INGESTED)] == ["a/c", "ä"]


odd = st.text(st.characters(), max_size=8)


@examples(40)
@given(odd.filter(lambda s: s.isprintable()), odd)
def test_any_text_is_stored_and_changed_only_where_no_database_takes_it(
    item: str, message: str
) -> None:
    ledger = Ledger.open("sqlite://", job="j")
    ledger.put_items([replace(A, item=item, message=message, source="x\udc80\0y")])
    (row,) = ledger.items()
    assert row.item == item
    assert row.source == "x\\udc80\\x00y"
    if "\0" not in message and not any("\ud800" <= c <= "\udfff" for c in message):
        assert row.message == message
    ledger.close()


# --- counts ------------------------------------------------------------------------------------


def test_only_units_of_the_wanted_fingerprint_count(ledger: Ledger) -> None:
    ledger.put_items([A])
    ledger.put_units(
        [
            U,
            replace(U, number=1, state=FAILED, error="OSError", message="full"),
            replace(U, number=2, fingerprint="old"),
            replace(U, number=3, fingerprint="old", state=FAILED),
        ]
    )
    found = count(ledger)
    assert (found.units, found.done, found.failed, found.pending) == (4, 1, 1, 2)
    assert ledger.done_units() == [U]
    assert [(f.number, f.error, f.message) for f in ledger.failures()] == [(1, "OSError", "full")]
    ledger.put_items([replace(A, fingerprint="old")])
    found = count(ledger)
    assert (found.done, found.failed, found.pending) == (1, 1, 2)


def test_an_item_without_units_is_counted_too(ledger: Ledger) -> None:
    ledger.put_items([A, replace(A, item="b", state=REJECTED, error="E", message="m", units=0)])
    assert [(c.item, c.state, c.done, c.pending, c.error) for c in ledger.count_items()] == [
        ("a", INGESTED, 0, 4, ""),
        ("b", REJECTED, 0, 0, "E"),
    ]


@examples(30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.integers(0, 3), st.sampled_from("fg"),
            st.sampled_from([DONE, FAILED])
        ),
        max_size=20,
    )
)  # fmt: skip
def test_the_last_outcome_of_each_unit_is_the_one_that_counts(
    outcomes: list[tuple[str, int, str, str]],
) -> None:
    ledger = Ledger.open("sqlite://", job="j")
    ledger.put_items([A, replace(A, item="b", fingerprint="g")])
    last = {}
    for item, tile, fingerprint, state in outcomes:
        ledger.put_units([UnitRow(item=item, number=tile, fingerprint=fingerprint, state=state)])
        last[item, tile] = (fingerprint, state)
    for item, wanted in (("a", "f"), ("b", "g")):
        mine = [state for (i, _), (f, state) in last.items() if (i, f) == (item, wanted)]
        found = count(ledger, item)
        assert (found.done, found.failed) == (mine.count(DONE), mine.count(FAILED))
    ledger.close()


@pytest.mark.slow
def test_a_hundred_thousand_units_are_counted_right(ledger: Ledger) -> None:
    per_item = 1000
    for i in range(100):
        item = f"i{i:03}"
        ledger.put_items([replace(A, item=item, units=per_item)])
        ledger.put_units(
            UnitRow(item=item, number=t, fingerprint="f", state=FAILED if t % 100 == i else DONE)
            for t in range(per_item)
        )
    counts = list(ledger.count_items())
    assert len(counts) == 100
    assert all((c.done, c.failed, c.pending) == (990, 10, 0) for c in counts)
    assert len(ledger.failures()) == 1000
    assert len(ledger.tiles_of(replace(A, item="i007"), DONE)) == 990


def test_counting_may_be_left_half_way_and_written_into(ledger: Ledger) -> None:
    ledger.put_items([replace(A, item=f"i{n}") for n in range(500)])
    for number, found in enumerate(ledger.count_items()):
        ledger.put_units([replace(U, item=found.item)])
        if number == 250:
            break
    assert len(ledger.done_units()) == 251
    # A transaction still open would keep a writer in another process from the file.
    other = sqlite3.connect(str(ledger._engine.url.database), timeout=0)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.execute("BEGIN EXCLUSIVE")
    other.close()


def test_readers_see_whole_batches_while_another_thread_writes(tmp_path: Path) -> None:
    writer = Ledger.open_file(tmp_path / FILE_NAME, job="j")
    reader = Ledger.open_file(tmp_path / FILE_NAME, job="j")
    writer.put_items([replace(A, units=640)])

    def write() -> None:
        for start in range(0, 640, 64):
            writer.put_units(replace(U, number=t) for t in range(start, start + 64))

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(count(reader).done)
    thread.join()
    assert all(done % 64 == 0 for done in seen)
    assert seen == sorted(seen)
    assert count(reader).done == 640
    writer.close()
    reader.close()


# --- forgetting and scores -----------------------------------------------------------------------


def test_forgetting_drops_outcomes_and_scores_of_the_named_items_only(ledger: Ledger) -> None:
    ledger.put_items([A, replace(A, item="b")])
    ledger.put_units([U, replace(U, number=1), replace(U, item="b")])
    ledger.put_scores([S, replace(S, item="b")])
    assert ledger.knows_units()
    ledger.forget_units([])
    ledger.forget_units(["a", "not there"])
    assert [(c.item, c.done) for c in ledger.count_items()] == [("a", 0), ("b", 1)]
    assert [s.item for s in ledger.scores()] == ["b"]
    ledger.forget_scores()
    assert ledger.scores() == []
    assert ledger.done_units() == [replace(U, item="b")]
    ledger.forget_units(["b"])
    assert not ledger.knows_units()


def test_scores_of_pixels_that_are_wanted_no_more_are_left_out(ledger: Ledger) -> None:
    ledger.put_items([A])
    ledger.put_scores([S, replace(S, tile=1, fingerprint="old"), replace(S, kind="bicubic")])
    assert [(s.tile, s.kind) for s in ledger.scores()] == [(0, "bicubic"), (0, "reference")]
    ledger.put_items([replace(A, fingerprint="new")])
    assert ledger.scores() == []


def test_how_a_job_was_upscaled_is_remembered(ledger: Ledger) -> None:
    assert ledger.upscaling() is None
    ledger.keep_upscaling({"model": "span-x4", "tile_px": 512})
    ledger.keep_upscaling({"model": "Ä", "tile_px": 512})
    assert ledger.upscaling() == {"model": "Ä", "tile_px": 512}


def test_runs_are_listed_oldest_first_with_their_outcome(ledger: Ledger) -> None:
    for run in ("z", "m", "a"):
        ledger.start_run(run, f"upres upscale {run}")
        if run == "m":
            ledger.finish_run("m", "stopped")
    runs = ledger.runs()
    assert [(r["run"], r["outcome"]) for r in runs] == [
        ("z", "killed"),
        ("m", "stopped"),
        ("a", "running"),
    ]
    assert runs[1]["finished"] >= runs[1]["started"]
    with pytest.raises(LedgerError):
        ledger.start_run("a", "again")


# --- databases -----------------------------------------------------------------------------------


def test_two_jobs_in_one_database_know_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    one, two = Ledger.open_file(path, job="1"), Ledger.open_file(path, job="2")
    for ledger in (one, two):
        ledger.put_items([A])
        ledger.put_units([U])
        ledger.put_scores([S])
        ledger.start_run("r", "upres upscale")
        ledger.keep_upscaling({"model": "m"})
    two.put_items([replace(A, fingerprint="g")])
    two.put_units([replace(U, state=FAILED, fingerprint="g")])
    two.finish_run("r", "finished")
    two.keep_upscaling({"model": "n"})
    two.forget_scores()
    assert (count(one).done, count(two).done) == (1, 0)
    assert (one.failures(), len(two.failures())) == ([], 1)
    assert (len(one.scores()), len(two.scores())) == (1, 0)
    assert one.runs()[0]["outcome"] == "running"
    assert one.upscaling() == {"model": "m"}
    one.forget_units(["a"])
    assert len(two.failures()) == 1
    one.close()
    two.close()


@pytest.mark.parametrize("name", ["what?", "a#b", "50%20", "a b", "u:p@h", "é", "x?mode=memory"])
def test_a_ledger_lies_in_its_folder_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    Ledger.open_file(folder / FILE_NAME, job="j").close()
    assert (folder / FILE_NAME).is_file()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/db",
        "postgresql://me:s3cret@127.0.0.1:port/db",
        "postgresql://127.0.0.1/db?user=me&password=s3cret",
        "nosuchdatabase://me:s3cret@h/db",
        "mysql://me:s3cret@h/db",
        "me:s3cret@h",
        "sqlite:////no/such/folder/x.sqlite?password=s3cret",
        "",
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.open(url, job="j")
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "s3cret" not in str(shown)
        shown = shown.__cause__


def test_a_server_that_is_away_says_what_to_do() -> None:
    with pytest.raises(LedgerError, match=r"refused; start the database again, then repeat"):
        Ledger.open("postgresql://me@127.0.0.1:1/db", job="j")


@pytest.mark.parametrize("version", [0, 1, 3, 99])
def test_a_ledger_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / FILE_NAME
    Ledger.open_file(path, job="j").close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE jobs SET version = ?", (version,))
    database.close()
    with pytest.raises(LedgerError, match=f"version {version}, expected"):
        Ledger.open_file(path, job="j")


@pytest.mark.parametrize("content", [b"words" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_file_is_a_ledger_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(LedgerError, match="move the file away, and the next `upres upscale`"):
            Ledger.open_file(path, job="j", read_only=read_only)
    assert path.read_bytes() == content


def test_a_file_damaged_after_opening_is_a_ledger_error(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    Ledger.open_file(path, job="j").close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(LedgerError), closing(Ledger.open_file(path, job="j")) as ledger:
        ledger.put_items([A])


def test_a_full_disk_under_a_ledger_says_what_to_do() -> None:
    with closing(sqlite3.connect(":memory:")) as full:
        full.execute("CREATE TABLE rows (text)")
        full.execute("PRAGMA max_page_count = 3")
        with pytest.raises(sqlite3.OperationalError) as error:
            full.execute("INSERT INTO rows VALUES (zeroblob(100000))")
    said = explain(error.value)
    assert said.startswith(
        "No space left on device (database or disk is full); free some space there"
    )


def test_a_ledger_that_may_only_be_read_is_a_ledger_error_when_written(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    first = Ledger.open_file(path, job="j")
    first.put_items([A])
    first.close()
    reading = Ledger.open(f"sqlite:///file:{path}?mode=ro&uri=true", job="j")
    assert reading.items() == [A]
    with pytest.raises(LedgerError, match="readonly"):
        reading.put_items([replace(A, item="b")])
    reading.close()


def test_a_ledger_opened_for_reading_shows_what_a_writer_puts_and_takes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "what?%20#" / FILE_NAME
    path.parent.mkdir()
    writer = Ledger.open_file(path, job="j")
    reader = Ledger.open_file(path, job="j", read_only=True)
    writer.put_items([A])
    assert reader.items() == [A]
    with pytest.raises(LedgerError, match="readonly"):
        reader.put_items([replace(A, item="b")])
    reader.close()
    writer.close()
    by_url = Ledger.open(f"sqlite:///{tmp_path}/other.sqlite", job="j")
    with pytest.raises(LedgerError, match="knows no job k"):
        Ledger.open(f"sqlite:///{tmp_path}/other.sqlite", job="k", read_only=True)
    by_url.close()


def test_reading_a_ledger_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger at .*; make one with"):
        Ledger.open_file(tmp_path / FILE_NAME, job="j", read_only=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(LedgerError, match="knows no job j"):
        Ledger.open_file(tmp_path / FILE_NAME, job="j", read_only=True)
    assert (tmp_path / FILE_NAME).read_bytes() == b""


def test_a_folder_in_the_ledgers_place_is_a_ledger_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"unable to open .*; let this user read and write"):
        Ledger.open_file(tmp_path, job="j")


# --- exports -----------------------------------------------------------------------------------

E = ExportRow(path="/out/a.png", item="a", asked="same", format="png", made_of="x", sha256="1")


def test_exports_are_found_by_folder_and_by_item(ledger: Ledger) -> None:
    rows = [E, replace(E, path="/out/sub/b%_.png", item="b"), replace(E, path="/OUT/a.png")]
    ledger.put_exports(rows)
    assert ledger.exports(below="/out/") == [rows[0], rows[1]]
    assert ledger.exports(below="/OUT/") == [rows[2]]
    assert ledger.exports(below="/out/sub/b%") == [rows[1]]
    assert sorted(r.path for r in ledger.exports_of(["a"])) == ["/OUT/a.png", "/out/a.png"]
    ledger.forget_exports(["/out/a.png"])
    assert ledger.exports(below="/out/") == [rows[1]]


def test_times_beyond_64_bits_are_kept(ledger: Ledger) -> None:
    row = replace(E, mtime_ns=str(13569465600 * 10**9))
    ledger.put_exports([row])
    assert ledger.exports(below="/") == [row]


def test_the_source_is_the_one_of_the_last_run(ledger: Ledger) -> None:
    assert ledger.source() is None
    ledger.keep_source("/one")
    ledger.keep_source("/two")
    assert ledger.source() == "/two"


def old_ledger(path: Path) -> None:
    """Leave a ledger as the version before exports were recorded left it."""
    made = Ledger.open_file(path, job="j")
    made.put_items([A])
    made.close()
    with closing(sqlite3.connect(path)) as connection:
        for table in ("exports", "sources"):
            connection.execute(f"DROP TABLE {table}")
        connection.commit()


def test_a_ledger_of_before_gets_the_tables_that_it_lacks(tmp_path: Path) -> None:
    old_ledger(tmp_path / FILE_NAME)
    with closing(Ledger.open_file(tmp_path / FILE_NAME, job="j")) as ledger:
        assert ledger.items() == [A]
        assert ledger.exports(below="/") == []
        ledger.put_exports([E])
        assert ledger.exports(below="/") == [E]


def test_a_ledger_of_before_can_be_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    old_ledger(tmp_path / FILE_NAME)
    with closing(Ledger.open_file(tmp_path / FILE_NAME, job="j", read_only=True)) as ledger:
        assert ledger.items() == [A]
        assert ledger.exports(below="/") == []
        assert ledger.source() is None


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE invoices (sum)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="another program"):
        Ledger.open_file(path, job="j")
    assert path.read_bytes() == before


def test_the_number_of_a_unit_is_in_the_column_that_has_always_been_called_tile(
    tmp_path: Path,
) -> None:
    path = tmp_path / FILE_NAME
    with closing(Ledger.open_file(path, job="j")) as ledger:
        ledger.put_items([A])
        ledger.put_units([replace(U, number=3)])
    with closing(sqlite3.connect(path)) as connection, connection:
        (columns,) = connection.execute("SELECT group_concat(name) FROM pragma_table_info('units')")
        assert columns == (
            "job,item,tile,fingerprint,state,error,message,attempts,worker,seconds,run",
        )
        connection.execute("UPDATE units SET tile = 2 WHERE tile = 3")
    with closing(Ledger.open_file(path, job="j")) as ledger:
        assert ledger.done_units() == [replace(U, number=2)]
