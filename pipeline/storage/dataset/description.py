"""What a dataset says of itself: the attributes of its Zarr group."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import zarr

from pipeline.errors import DatasetError, StoreError
from pipeline.storage.dataset.spec import DatasetSpec
from pipeline.storage.disk import fsync
from pipeline.storage.zarr_metadata import METADATA
from pipeline.storage.zarr_stores import store_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.storage.store import Place

DATASET_KEY = "upres_dataset"
VERSION = 1


def read_spec(path: Place) -> DatasetSpec:
    """Return the spec of the dataset at `path`.

    Raises:
        DatasetError: if there is none, or its description is damaged.
    """
    try:
        attributes = json.loads((path / METADATA).read_bytes())["attributes"]
        values = attributes[DATASET_KEY]
        spec = DatasetSpec(
            scale=int(values["scale"]),
            channels=int(values["channels"]),
            hr_px=(int(values["hr_px"][0]), int(values["hr_px"][1])),
            degradations=tuple(map(str, values["degradations"])),
            recipe=dict(values["recipe"]),
            fingerprint=str(values["fingerprint"]),
            chunk_patches=int(values["chunk_patches"]),
        )
        version = values["version"]
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DatasetError(
            f"{path} is not a dataset ({type(error).__name__}: {error}); prepare one with "
            "`upres prepare SRC DATASET --recipe R`"
        ) from error
    if version != VERSION:
        raise DatasetError(
            f"{path} is a dataset of version {version}, expected {VERSION}; use the "
            "upres that prepared it, or prepare it again"
        )
    return spec


def write_spec(path: Place, spec: DatasetSpec) -> None:
    """Make the group of a new dataset."""
    values = {"version": VERSION, **asdict(spec)}
    zarr.create_group(store_at(path), zarr_format=3, attributes={DATASET_KEY: values})


def make_groups(path: Place, names: Iterable[str]) -> None:
    """Make the groups in a dataset that are not there yet: folders of files that Zarr passes by."""
    group = zarr.open_group(store_at(path), mode="r+", zarr_format=3)
    for name in names:
        if not (path / name / METADATA).exists():
            group.create_group(name)


def read_about(path: Place) -> dict[str, Any]:
    """Return what `write_about` put last."""
    attributes = json.loads((path / METADATA).read_bytes())["attributes"]
    return dict(attributes.get("about", {}))


def write_about(path: Place, facts: Mapping[str, Any]) -> None:
    """Put `facts` beside the spec, durably."""
    group = zarr.open_group(store_at(path), mode="r+", zarr_format=3)
    group.attrs.put({**dict(group.attrs), "about": dict(facts)})
    fsync(path / METADATA)
    fsync(path)


def check_place(path: Place) -> None:
    """Make sure that a dataset is at `path`, or could be made there.

    Raises:
        DatasetError: if another thing is there.
    """
    if path.exists() and not is_dataset(path) and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path} exists and is not a dataset; name a new or empty folder")


def is_dataset(path: Place) -> bool:
    """Return whether `path` is a place that describes itself as a dataset.

    Raises:
        StoreError: if it is in a bucket that cannot be used.
    """
    try:
        found = json.loads((path / METADATA).read_bytes())
        return DATASET_KEY in found["attributes"]
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_same(path: Place, found: DatasetSpec, spec: DatasetSpec) -> None:
    """Make sure that a dataset was made by the recipe that is given now."""
    # As JSON has it, in which a tuple is a list.
    if json.loads(json.dumps(asdict(found))) == json.loads(json.dumps(asdict(spec))):
        return
    before, now = dict(found.recipe), dict(spec.recipe)
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    changes = ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in keys)
    raise DatasetError(
        f"{path} was prepared by another recipe ({changes or 'of another upres'}); use the same "
        "values, or name another folder"
    )
