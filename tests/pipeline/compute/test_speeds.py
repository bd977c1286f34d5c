"""Speeds: measured once a machine and network, kept, and never in the way of a run."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest
import torch

import pipeline.compute.speeds
import pipeline.storage.user_cache
from models.checkpoint import load
from pipeline.compute.speeds import (
    SIDES_PX,
    Speeds,
    Subject,
    known_or_measured,
    measure_speeds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUBJECT = Subject("a network", "torch", "fp32", 1)
KNOWN = Speeds(((128, 2e6), (298, 1.5e6)))


class Asleep:
    """A backend that takes a time for each pixel."""

    name = "torch"

    def __init__(self, pixels_a_second: float) -> None:
        self.pixels_a_second = pixels_a_second
        self.shapes: list[tuple[int, ...]] = []
        self.now_s = 0.0

    def run(self, x: torch.Tensor, precision: str) -> torch.Tensor:
        assert precision == "bf16"
        assert 0 <= float(x.min()) < float(x.max()) <= 1
        self.shapes.append(tuple(x.shape))
        self.now_s += x[0, 0].numel() / self.pixels_a_second
        return x

    def clock(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measured(monkeypatch: pytest.MonkeyPatch, pixels_a_second: float) -> tuple[Asleep, Speeds]:
    backend = Asleep(pixels_a_second)
    monkeypatch.setattr(time, "thread_time", backend.clock)
    # The clock on the wall stands still, however slow this machine is.
    monkeypatch.setattr(pipeline.compute.speeds, "_WALL_S", math.inf)
    found = measure_speeds(backend, channels=3, precision="bf16")
    assert found is not None
    return backend, found


# --- measuring ----------------------------------------------------------------------------------


def test_a_fast_machine_measures_every_side(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, found = measured(monkeypatch, 3e6)
    assert [side for side, _ in found.by_side] == sorted(SIDES_PX)
    assert [speed for _, speed in found.by_side] == pytest.approx([3e6] * len(SIDES_PX))
    assert backend.now_s < 2


@pytest.mark.parametrize("pixels_a_second", [2e5, 1e5, 5e4, 2e4, 1e4, 1e3])
def test_a_slow_network_takes_no_more_than_a_few_seconds(
    monkeypatch: pytest.MonkeyPatch, pixels_a_second: float
) -> None:
    backend, found = measured(monkeypatch, pixels_a_second)
    assert backend.now_s < 5 + 2 * 64**2 / pixels_a_second
    assert not found or len(found.by_side) > 1


def test_what_cannot_be_computed_or_has_no_time_is_not_measured_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Asleep):
        def run(self, x: torch.Tensor, precision: str) -> torch.Tensor:
            raise RuntimeError("Failed to allocate 9 bytes")

    assert measure_speeds(Broken(1e6), channels=3, precision="bf16") is None
    monkeypatch.setattr(pipeline.compute.speeds, "_WALL_S", -1.0)
    assert measure_speeds(Asleep(1e6), channels=3, precision="bf16") is None
    assert known_or_measured(SUBJECT, lambda: None, tmp_path / "speeds.json") == Speeds()
    assert known_or_measured(SUBJECT, lambda: KNOWN, tmp_path / "speeds.json") == KNOWN


def test_between_two_sides_the_speed_is_on_a_straight_line() -> None:
    speeds = Speeds(((100, 4.0), (200, 2.0)))
    pixels = [(50, 4.0), (100, 4.0), (150, 3.0), (200, 2.0), (900, 2.0)]
    assert [speeds.at(side**2) for side, _ in pixels] == [speed for _, speed in pixels]


# --- keeping ------------------------------------------------------------------------------------


def test_what_was_measured_once_is_never_measured_again(tmp_path: Path) -> None:
    file, runs = tmp_path / "a" / "cache" / "speeds.json", count()

    def measure() -> Speeds:
        next(runs)
        return KNOWN

    for _ in range(3):
        assert known_or_measured(SUBJECT, measure, file) == KNOWN
    assert next(runs) == 1
    assert known_or_measured(replace(SUBJECT, threads=2), measure, file) == KNOWN
    assert known_or_measured(replace(SUBJECT, precision="bf16"), measure, file) == KNOWN
    assert known_or_measured(replace(SUBJECT, backend="numpy"), measure, file) == KNOWN
    assert known_or_measured(replace(SUBJECT, network="another"), measure, file) == KNOWN
    assert next(runs) == 6
    assert known_or_measured(SUBJECT, measure, file) == KNOWN
    assert next(runs) == 7


def test_another_machine_or_another_version_measures_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {SUBJECT.key()}
    for name, value in (("processor", "a Z80"), ("cores", 99), ("version", "0.0.1")):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline.compute.speeds, name, lambda *_, value=value: value)
            keys.add(SUBJECT.key())
    assert len(keys) == 4


def test_a_package_under_another_name_has_a_key_all_the_same() -> None:
    assert "no-such-package" in replace(SUBJECT, backend="no-such-package").key()


def test_networks_that_differ_in_their_weights_alone_are_one() -> None:
    def key(name: str) -> str:
        return Subject.of(load(name).spec, backend="torch", precision="fp32").key()

    assert key("span-x4") == key("span-x4-gan")
    assert key("span-x4") != key("span-x2")


_KEPT = '{"format": 1, "kept": {"%s": %s}}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0\xff",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"format": 2, "kept": {}}',
        '{"format": 1}',
        '{"format": 1, "kept": []}',
        _KEPT % (SUBJECT.key(), "[[128, 0.0], [298, 1.0]]"),
        _KEPT % (SUBJECT.key(), "[[128, NaN], [298, 1.0]]"),
        _KEPT % (SUBJECT.key(), "[[128, Infinity], [298, 1.0]]"),
        _KEPT % (SUBJECT.key(), "[[298, 1.0], [128, 1.0]]"),
        _KEPT % (SUBJECT.key(), "[[-3, 1.0]]"),
        _KEPT % (SUBJECT.key(), "[[Infinity, 1.0]]"),
        _KEPT % (SUBJECT.key(), '[["a", "b"]]'),
        _KEPT % (SUBJECT.key(), "7"),
    ],
)
def test_a_broken_file_is_measured_over_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    file = tmp_path / "speeds.json"
    file.write_bytes(content.encode("latin-1"))
    assert known_or_measured(SUBJECT, lambda: KNOWN, file) == KNOWN
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    assert known_or_measured(SUBJECT, pytest.fail, file) == KNOWN


@pytest.mark.parametrize("obstacle", ["folder", "file above", "lock of others", "no name"])
def test_where_nothing_can_be_kept_a_run_measures_for_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    file = tmp_path / "cache" / "speeds.json"
    if obstacle == "folder":
        file.mkdir(parents=True)
    elif obstacle == "file above":
        file.parent.write_text("mine")
    elif obstacle == "lock of others":
        file.parent.mkdir()
        file.with_suffix(".lock").write_text("mine")
    else:
        file = tmp_path / ("long" * 99) / "speeds.json"
    for _ in range(2):
        assert known_or_measured(SUBJECT, lambda: KNOWN, file) == KNOWN
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    if obstacle == "file above":
        assert file.parent.read_text() == "mine"
    if obstacle == "lock of others":
        assert file.with_suffix(".lock").read_text() == "mine"


def test_of_many_workers_one_measures_and_the_others_wait_for_it(tmp_path: Path) -> None:
    file, runs, busy = tmp_path / "speeds.json", count(), threading.Lock()
    found: list[Speeds] = []

    def measure() -> Speeds:
        assert busy.acquire(blocking=False)
        next(runs)
        time.sleep(0.3)
        busy.release()
        return KNOWN

    workers = [
        threading.Thread(target=lambda: found.append(known_or_measured(SUBJECT, measure, file)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (found, next(runs)) == ([KNOWN] * 4, 1)


def test_who_waited_for_another_in_vain_goes_on_unmeasured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline.storage.user_cache, "_WAIT_S", 0.2)
    file = tmp_path / "speeds.json"
    inner: list[Speeds] = []

    def measure() -> Speeds:
        inner.append(known_or_measured(SUBJECT, pytest.fail, file))
        return KNOWN

    assert known_or_measured(SUBJECT, measure, file) == KNOWN
    assert inner == [Speeds()]
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


def test_who_has_no_file_to_keep_them_in_measures_in_every_run() -> None:
    for _ in range(2):
        assert known_or_measured(SUBJECT, lambda: KNOWN, None) == KNOWN
