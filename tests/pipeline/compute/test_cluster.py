"""Workers: they are found where the settings say, or it is said why not."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any

import dask
import distributed
import pytest

from pipeline.compute.cluster import ClusterSettings, connect, workers_of
from pipeline.compute.submission import submit_windowed
from pipeline.errors import UsageError
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.slow
def test_a_worker_that_takes_long_to_come_back_does_come_back() -> None:
    """Dask's own clusters close the nanny of a worker that is gone for 15 s."""
    others = {child.pid for child in active_children()}
    with connect(ClusterSettings(workers=1)) as client:
        first = next_child(others)
        os.kill(first, signal.SIGKILL)
        second = next_child(others | {first})
        os.kill(second, signal.SIGSTOP)
        time.sleep(17)
        os.kill(second, signal.SIGCONT)
        tasks = submit_windowed(client, abs, range(8))
        assert sorted(o.result or 0 for o in tasks) == list(range(8))


def next_child(others: set[int | None]) -> int:
    """Wait for the process of a worker that is none of `others`; return its id."""
    found: list[int] = []

    def children() -> list[int]:
        return [one.pid for one in active_children() if one.pid and one.pid not in others]

    what = "no process has taken the place of the worker that was killed"
    until(lambda: found.extend(children()) or found, what, every_s=0.0)
    return found[0]


@pytest.mark.slow
def test_an_address_without_a_scheduler_is_a_usage_error() -> None:
    with (
        pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1'"),
        connect(ClusterSettings(address="tcp://127.0.0.1:1")),
    ):
        pass


def test_an_address_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nonsense"), connect(ClusterSettings(address="nonsense")):
        pass


@pytest.mark.parametrize("workers", [0, -3])
def test_fewer_workers_than_one_are_refused(workers: int) -> None:
    with pytest.raises(UsageError, match=str(workers)):
        ClusterSettings(workers=workers)


def test_a_number_of_workers_beside_an_address_is_refused() -> None:
    with pytest.raises(UsageError, match="has its own"):
        ClusterSettings(address="tcp://127.0.0.1:8786", workers=2)


def test_a_scheduler_that_wants_a_key_is_not_tried_without_one() -> None:
    with (
        pytest.raises(UsageError, match=r"'tls://127\.0\.0\.1:1' can be made .*TLS"),
        connect(ClusterSettings(address="tls://127.0.0.1:1")),
    ):
        pass


def test_what_an_earlier_attempt_left_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread of a new client must not be the one that ends a client which never connected."""
    address = ClusterSettings(address="tls://127.0.0.1:1")
    gc.disable()
    try:
        with pytest.raises(UsageError), connect(address):
            pass
        run = distributed.utils.asyncio_run

        def run_with_garbage(*arguments: Any, **named: Any) -> Any:
            cycles: list[list[int]] = [
                [] for _ in range(200_000)
            ]  # As many as make Python collect by itself.
            return run(*arguments, **named) if cycles else None

        monkeypatch.setattr(distributed.utils, "asyncio_run", run_with_garbage)
        gc.enable()
        began = time.monotonic()
        with pytest.raises(UsageError, match="TLS"), connect(address):
            pass
        # Dask gives up on its thread after 10 s.
        assert time.monotonic() - began < 9
    finally:
        gc.enable()


def test_a_setting_of_dask_that_cannot_be_is_named_where_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(dask.config.config["distributed"]["comm"]["tls"], "min-version", "abc")
    with (
        pytest.raises(UsageError, match="min-version='abc'"),
        connect(ClusterSettings(address="tcp://127.0.0.1:1")),
    ):
        pass


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[distributed.LocalCluster]:
    """A scheduler as it is when it was just started again."""
    monkeypatch.setattr("pipeline.compute.cluster._FIRST_WORKER_S", PATIENCE_S)
    with distributed.LocalCluster(
        n_workers=0, processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def test_a_scheduler_whose_workers_are_still_coming_is_waited_for(
    without_workers: distributed.LocalCluster,
) -> None:
    coming = threading.Timer(0.5, without_workers.scale, [1])
    coming.start()
    with connect(ClusterSettings(address=without_workers.scheduler_address)) as found:
        assert workers_of(found) == 1
        assert [o.result for o in submit_windowed(found, abs, [-3])] == [3]
    coming.join()


def test_a_scheduler_without_workers_is_a_usage_error_after_a_while(
    without_workers: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.compute.cluster._FIRST_WORKER_S", 0.5)
    address = without_workers.scheduler_address
    with (
        pytest.raises(UsageError, match=r"has had no workers for .* s; start `dask worker"),
        connect(ClusterSettings(address=address)),
    ):
        pass
