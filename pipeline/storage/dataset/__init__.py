"""Datasets: the patches that networks train on, as Zarr stacks.

A dataset is a Zarr v3 group of arrays whose first axis counts the patches: ``hr (n, c, y, x)``, one
``lr_<degradation>`` for each degradation, ``moments (n, c, 2)``, ``identity (n,)`` and
``split (n,)``. A patch is one inner chunk, so that any of them is read alone; a shard holds some
hundred, a **chunk** of the dataset, written whole by one writer. ``manifest/N.json`` says which
patches chunk N is to hold: it is written first, and so is the plan that an interrupted preparation
goes on with.
``identity`` proves which of them the chunk does hold; ``split`` comes last: a row of it is
`NO_PATCH` until its patch is durable.

`spec` says what patches have in common, `description` reads and writes that, `arrays` carries rows
in and out, `patch_moments` is what statistics are made of, and `dataset` puts them together.
"""

from pipeline.storage.dataset.dataset import Dataset
from pipeline.storage.dataset.description import check_place, is_dataset
from pipeline.storage.dataset.patch_moments import moments
from pipeline.storage.dataset.spec import HR, IDENTITY, LR_PREFIX, MOMENTS, SPLIT, DatasetSpec

__all__ = [
    "HR",
    "IDENTITY",
    "LR_PREFIX",
    "MOMENTS",
    "SPLIT",
    "Dataset",
    "DatasetSpec",
    "check_place",
    "is_dataset",
    "moments",
]
