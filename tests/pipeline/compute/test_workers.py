"""Workers that are connected to once they are needed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pipeline.compute.workers import Workers
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.cluster import Client


def test_workers_that_are_refused_are_refused_again_and_no_others_are_started(
    client: Client,
) -> None:
    opened: list[Client] = []
    checked: list[Client] = []
    then: list[Client] = []

    @contextmanager
    def own() -> Iterator[Client]:
        opened.append(client)
        yield client

    def check(_client: Client) -> None:
        checked.append(_client)
        if len(checked) < 3:
            raise ClusterError("one of them lacks something")

    with Workers(own) as workers:
        workers.when_connected(check)
        workers.when_connected(then.append)
        for _ in range(2):
            with pytest.raises(ClusterError, match="lacks something"):
                _ = workers.client
            assert then == []
        assert workers.client is workers.client is client
    assert (len(opened), len(checked), then) == (1, 3, [client])
