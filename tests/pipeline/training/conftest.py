"""What the tests of training share: patches to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pipeline.training.small_trainings import make

if TYPE_CHECKING:
    from pipeline.storage.dataset import Dataset
    from tests.conftest import TakePhoto


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto) -> Dataset:
    return make(tmp_path_factory.mktemp("patches") / "d", photo)
