"""Devices: what a machine has, and who computes on which."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.inference import gpus_of, own_device, resolve_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_cpu_is_no_gpu() -> None:
    assert gpus_of("cpu") == 0
    assert own_device("cpu", 3) == "cpu"


@pytest.mark.parametrize(
    "word", ["cpu:", "cpu:3", "cuda:", "cuda:²", "cuda:-1", "gpu", "cuda:99999"]
)
@pytest.mark.usefixtures("two_gpus")
def test_a_word_that_is_no_device_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="device is"):
        resolve_device(word)


@pytest.mark.usefixtures("two_gpus")
def test_workers_share_out_the_gpus_unless_one_is_named() -> None:
    assert [gpus_of(device) for device in ("auto", "cuda", "cuda:1")] == [2, 2, 1]
    assert [own_device("auto", n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert own_device("cuda:1", 0) == "cuda:1"
