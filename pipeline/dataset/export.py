"""Export of a dataset: from patches to PNG files in folders, as other trainers read them.

HR and LR files of a patch have one name, the patch's row, in folders side by side:
``train/hr/00000123.png`` and ``train/lr_bicubic/00000123.png`` are paired by BasicSR and by
whatever else goes by names. A folder of a split never holds one of a pair alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.compute.listener import Listener
from pipeline.compute.outcomes import Failure
from pipeline.compute.submission import submit_windowed
from pipeline.dataset.ledgers import LedgerPlace
from pipeline.errors import OccupiedError, UpresError, UsageError
from pipeline.pictures.files import encode_picture
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture
from pipeline.storage.access import EVERYONE, close_to, make_folder, readers
from pipeline.storage.atomic import replace_atomically, write_atomic
from pipeline.storage.dataset import Dataset
from pipeline.storage.manifest import NO_PATCH, SPLITS
from pipeline.storage.places import is_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop
    from pipeline.storage.dataset import DatasetSpec
    from pipeline.storage.store import Place

MANIFEST, STATISTICS = "manifest.csv", "statistics.json"
COLUMNS = ("row", "split", "item", "top", "left", "seed", "licence")
"""Of the manifest; `top` and `left` are the patch's corner in its picture, in HR pixels."""

_THREADS = 8
"""Files that a task writes at once.

Each is made durable on its own, for which a disk takes longer than encoding does; but it does eight
together in little more time than one.
"""
_OURS = re.compile(r"\d{8,}\.png|\.[0-9a-f]{32}\.partial")


@dataclass(frozen=True, slots=True)
class ExportChunkTask:
    """One chunk of a dataset to write as files below `out_dir`."""

    dataset_dir: Place
    out_dir: Path
    chunk: int
    overwrite: bool = False
    """Whether a file that differs from its patch may be replaced."""


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """What became of a chunk: the rows whose files are all there, and why others do not."""

    rows: NDArray[np.int64]
    failures: tuple[Failure, ...]
    occupied: frozenset[int] = frozenset()
    """Rows of which a file there is not of this export, so that all of theirs stay."""


def check_apart(dataset_dir: Place, *, out_dir: Path) -> None:
    """Refuse to mix a dataset with the files that are made of it.

    Raises:
        UsageError: if one of the two folders is the other, or is in it.
    """
    if is_inside(out_dir, dataset_dir) or is_inside(dataset_dir, out_dir):
        raise UsageError(
            f"{out_dir} and the dataset {dataset_dir} overlap, expected separate folders; "
            "export into another folder"
        )


@dataclass(frozen=True, slots=True)
class ExportedPatches:
    """How many patches were written, and what was not, with the reason."""

    written: int
    failures: tuple[Failure, ...]


def export_dataset(
    folder: Place,
    out_dir: Path,
    cluster: ClusterSettings,
    *,
    overwrite: bool,
    stop: Stop,
    listener: Listener | None = None,
) -> ExportedPatches:
    """Write the patches of a dataset as files, as `run_dataset_export`, while none are made.

    Raises:
        JobBusyError: if the dataset is being prepared.
    """
    with (
        LedgerPlace.of(folder).hold_to_read("upres export"),
        connect(cluster) as client,
        (listener or Listener()).counting("export", "patches") as count,
    ):
        written, failures = run_dataset_export(
            folder.resolve(),
            out_dir=out_dir,
            client=client,
            overwrite=overwrite,
            stop=stop,
            report=count,
        )
    return ExportedPatches(written, tuple(failures))


def run_dataset_export(
    dataset_dir: Place,
    *,
    out_dir: Path,
    client: Client,
    overwrite: bool = False,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[int, list[Failure]]:
    """Write every patch below `out_dir`; return how many, and what was not written.

    ``statistics.json`` comes first and says of which dataset the files are; ``manifest.csv`` comes
    last and lists the patches whose files are all there, so it is missing where the export was
    stopped. Files of rows that it does not list are removed. Equal datasets give equal bytes; a
    file that is there and equal stays as it is, and one that differs is a failure without
    `overwrite`. `report` receives numbers of rows.

    Raises:
        DatasetError: if there is no dataset, or its manifests are damaged.
        UsageError: if the folder holds other things, or is in the dataset or around it.
    """
    check_apart(dataset_dir, out_dir=out_dir)
    dataset = Dataset.open(dataset_dir)
    _check_ours(out_dir, dataset.spec)
    _make_folders(out_dir, readers([dataset_dir], near=out_dir))
    write_atomic(out_dir / STATISTICS, _statistics(dataset))
    (out_dir / MANIFEST).unlink(missing_ok=True)
    here, there = dataset_dir.absolute(), out_dir.absolute()
    tasks = [ExportChunkTask(here, there, n, overwrite) for n in range(dataset.chunks)]
    rows: list[NDArray[np.int64]] = [np.array([], dtype=np.int64)]
    occupied: set[int] = set()
    failures: list[Failure] = []
    seen = done = 0
    for outcome in submit_windowed(client, export_chunk, tasks, stop=stop):
        if outcome.result is not None:
            rows.append(outcome.result.rows)
            failures.extend(outcome.result.failures)
            occupied |= outcome.result.occupied
        else:
            failures.append(Failure.of(f"chunk {outcome.task.chunk}", outcome.error))
        seen += 1
        done += _rows_of(dataset, outcome.task.chunk)
        report(done, len(dataset))
    written = np.concatenate(rows)
    if seen == len(tasks):
        _finish(dataset, out_dir, written, occupied)
    return len(written), sorted(failures, key=lambda failure: failure.item)


def _make_folders(out_dir: Path, allowed: int) -> None:
    """Make the folders that files are written into, for those who may read the dataset."""
    make_folder(out_dir, allowed)
    if allowed != EVERYONE:
        for split in SPLITS:
            make_folder(out_dir / split, allowed)
            close_to(out_dir / split, allowed)


def export_chunk(task: ExportChunkTask) -> ChunkFiles:
    """Write the patches of a chunk that are made; a file that fails does not stop the others.

    Raises:
        DatasetError: if the chunk is damaged.
    """
    dataset = Dataset.open(task.dataset_dir)
    manifest = dataset.manifest(task.chunk)
    rows = task.chunk * dataset.spec.chunk_patches + manifest.places
    if not dataset.is_marked(task.chunk):
        return ChunkFiles(rows[:0], _not_made(task.chunk, len(rows)))
    pixels = {name: dataset.read(name, rows) for name in dataset.spec.pixel_arrays}
    failures = list(_write_all(task, rows, manifest.splits, pixels))
    whole = ~np.isin(rows, [row for row, _ in failures])
    return ChunkFiles(
        rows[whole],
        tuple(failure for _, failure in failures),
        frozenset(row for row, failure in failures if failure.error == OccupiedError.__name__),
    )


def _not_made(chunk: int, patches: int) -> tuple[Failure, ...]:
    """Return why nothing of a chunk was written; nothing where it is to hold nothing."""
    message = f"{patches} patches are not made yet; run `upres prepare` again, then export"
    return (Failure.not_done(f"chunk {chunk}", message),) if patches else ()


def _write_all(
    task: ExportChunkTask,
    rows: NDArray[np.int64],
    splits: NDArray[np.uint8],
    pixels: Mapping[str, NDArray[np.uint8]],
) -> Iterator[tuple[int, Failure]]:
    """Write every file of `rows`; yield the row and the reason of each that could not be."""
    files = [
        (row, f"{SPLITS[split]}/{name}/{row:08}.png", patches[n])
        for name, patches in pixels.items()
        for n, (row, split) in enumerate(zip(rows.tolist(), splits.tolist(), strict=True))
    ]

    def write(file: tuple[int, str, NDArray[np.uint8]]) -> tuple[int, Failure] | None:
        row, name, patch = file
        error = _written(task.out_dir / name, patch, overwrite=task.overwrite)
        return None if error is None else (row, Failure.of(name, error))

    with ThreadPoolExecutor(_THREADS) as threads:
        yield from filter(None, threads.map(write, files))


def _written(path: Path, patch: NDArray[np.uint8], *, overwrite: bool) -> Exception | None:
    """Write a patch ``(c, y, x)`` as PNG; return what kept it from being written."""
    metadata = Metadata(format="png", mode="L" if len(patch) == 1 else "RGB")
    picture = Picture(pixels=patch, metadata=metadata)
    try:
        content, _ = encode_picture(picture, name=path.name, format="png")
        if os.path.lexists(path) and not overwrite:
            return None if path.read_bytes() == content else _occupied(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except (OSError, UpresError) as error:
        return error
    return None


def _occupied(path: Path) -> OccupiedError:
    return OccupiedError(
        f"{path} exists and differs from its patch; move it away, export into another folder, or "
        "replace it with --overwrite"
    )


def _rows_of(dataset: Dataset, chunk: int) -> int:
    many = dataset.spec.chunk_patches
    return min(many, len(dataset) - chunk * many)


def _check_ours(out_dir: Path, spec: DatasetSpec) -> None:
    """Refuse a folder that holds anything but an earlier export by the same recipe."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    try:
        found = json.loads((out_dir / STATISTICS).read_bytes())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{out_dir} holds other things than an export, expected a new or empty folder; "
            "name another one"
        ) from None
    if found != spec.fingerprint:
        raise UsageError(
            f"{out_dir} holds the export of a dataset of fingerprint {str(found)[:12]}, this one "
            f"has {spec.fingerprint[:12]}; name another folder"
        )


def _statistics(dataset: Dataset) -> bytes:
    """Return what other trainers ask for, as JSON: sizes, and mean and std of HR in 0..1."""
    spec = dataset.spec
    facts: dict[str, Any] = {
        "scale": spec.scale,
        "channels": spec.channels,
        "hr_px": spec.hr_px,
        "lr_px": spec.lr_px,
        "degradations": spec.degradations,
        "fingerprint": spec.fingerprint,
        "splits": dataset.statistics(),
    }
    return json.dumps(facts, ensure_ascii=False, indent=2).encode() + b"\n"


def _finish(
    dataset: Dataset, out_dir: Path, rows: NDArray[np.int64], occupied: Iterable[int]
) -> None:
    """Remove what is neither of `rows` nor `occupied`, then list the rows."""
    splits = dataset.splits()
    kept = np.full(len(dataset), NO_PATCH, dtype=np.uint8)
    kept[rows] = splits[rows]
    stays = {f"{row:08}.png" for row in occupied}
    for number, split in enumerate(SPLITS):
        wanted = stays | {f"{row:08}.png" for row in np.flatnonzero(kept == number).tolist()}
        for name in dataset.spec.pixel_arrays:
            _remove_others(out_dir / split / name, wanted)
    with replace_atomically(out_dir / MANIFEST) as file:
        file.write(_csv([COLUMNS]))
        for chunk in range(dataset.chunks):
            file.write(_csv(_lines(dataset, chunk, kept)))


def _csv(lines: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", errors="backslashreplace")


def _remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove files that an earlier export, or a killed one, left behind."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in wanted and _OURS.fullmatch(path.name) and path.is_file():
                path.unlink()


def _lines(dataset: Dataset, chunk: int, kept: NDArray[np.uint8]) -> Iterator[Iterable[object]]:
    """Yield the lines of the manifest that tell of a chunk, by row."""
    manifest = dataset.manifest(chunk)
    rows = chunk * dataset.spec.chunk_patches + manifest.places
    for n in np.argsort(rows).tolist():
        row, origin = int(rows[n]), manifest.origins[manifest.pictures[n]]
        if kept[row] != NO_PATCH:
            corner, seed = manifest.corners[n].tolist(), int(manifest.seeds[n])
            yield row, SPLITS[kept[row]], origin.item, *corner, seed, origin.licence
