"""Failures as lines: a real one is read first, however many others there are."""

from __future__ import annotations

from flows.terminal.failures import SHOWN, failure_lines
from pipeline.compute.outcomes import Failure


def strange(number: int, words: str = "the file is a GIF") -> Failure:
    item = f"a{number:04}.gif"
    return Failure(item, None, "UnsupportedError", f"{item}: {words}, expected JPEG")


def test_failed_tiles_come_first_then_damaged_pictures_then_the_rest() -> None:
    tile = Failure("z.png", 7, "NotFiniteError", "returned NaN")
    damaged = Failure("y.png", None, "PictureError", "y.png: damaged PNG")
    lines = failure_lines([strange(1), strange(2), damaged, tile])
    assert lines == [
        "z.png tile 7: NotFiniteError: returned NaN",
        "y.png: PictureError: damaged PNG",
        "a0001.gif: UnsupportedError: the file is a GIF, expected JPEG",
        "a0002.gif: UnsupportedError: the file is a GIF, expected JPEG",
    ]


def test_many_failures_for_one_reason_share_a_line() -> None:
    many = [strange(n) for n in range(313)]
    damaged = [
        Failure(f"z{n}.png", None, "PictureError", f"z{n}.png: damaged PNG of {n} bytes")
        for n in range(4)
    ]
    assert failure_lines([*many, *damaged]) == [
        "z0.png: PictureError: damaged PNG of 0 bytes (and 3 more like this)",
        "a0000.gif: UnsupportedError: the file is a GIF, expected JPEG (and 312 more like this)",
    ]


def test_the_failures_of_a_disk_share_a_line_however_few_they_are() -> None:
    full = [Failure(f"{n}.png", None, "DiskError", "out is full") for n in range(2)]
    assert failure_lines([*full, strange(1)]) == [
        "0.png: DiskError: out is full (and 1 more like this)",
        "a0001.gif: UnsupportedError: the file is a GIF, expected JPEG",
    ]


def test_what_finds_no_place_is_counted_by_its_error() -> None:
    reasons = [strange(n, f"the file is {chr(97 + n % 26) * (1 + n // 26)}") for n in range(30)]
    tiles = [Failure("z.png", n, "WorkerError", "a worker died") for n in range(5)]
    lines = failure_lines([*reasons, *tiles])
    assert len(lines) == SHOWN + 1
    assert lines[0] == "z.png tile 0: WorkerError: a worker died (and 4 more like this)"
    assert lines[-1] == "and 11 more (11 UnsupportedError); --json lists them all"
    assert failure_lines([]) == []


def test_a_name_that_would_break_its_line_is_printed_once() -> None:
    item = "a\nb\x1b[1m.png"
    for name in (item, "a?b?[1m.png"):
        failure = Failure(item, None, "PictureError", f"{name}: the file is text")
        assert failure_lines([failure]) == [r"a\nb\x1b[1m.png: PictureError: the file is text"]
