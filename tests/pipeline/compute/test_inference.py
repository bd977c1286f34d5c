"""Pixels to floats and back; and devices: what a machine has, and who computes on which."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.compute.inference import (
    Inference,
    from_unit_range,
    gpus_of,
    load_model,
    own_device,
    resolve_device,
    to_unit_range,
)
from pipeline.errors import NotFiniteError, UsageError


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


def test_nan_in_the_picture_is_not_blamed_on_the_weights() -> None:
    model = load_model("bicubic-x2")
    run = Inference.of(model.network, scale=2, channels=3, precision="fp32")
    lr = np.zeros((3, 9, 9), dtype=np.float32)
    lr[1, 5, 7] = np.nan
    message = "picture itself holds NaN or infinity in 1 pixels .* row 5, column 7"
    with pytest.raises(NotFiniteError, match=message):
        run.enlarge(lr)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_levels_are_rounded_to_the_nearest_and_stay_within_their_range(dtype: str) -> None:
    peak = int(np.iinfo(dtype).max)
    levels = torch.tensor([-0.7, 0.3, 0.7, 99.4, 99.6, peak - 0.6, peak - 0.4, peak + 0.7])
    rounded = from_unit_range(levels / peak, np.dtype(dtype))
    assert rounded.dtype == dtype
    assert rounded.tolist() == [0, 0, 1, 99, 100, peak - 1, peak, peak]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_level_is_itself_again_after_the_way_to_floats_and_back(dtype: str) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(1, 1, 2, -1)
    again = from_unit_range(to_unit_range(levels), np.dtype(dtype))
    np.testing.assert_array_equal(again, levels)
