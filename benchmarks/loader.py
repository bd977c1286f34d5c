"""How fast patches come out of a dataset: 96 px HR with their LR, turned, in batches of 64.

Read at random from the page cache: by one process, by worker processes, from memory; and, the way
it is done without a dataset, from PNG files, the same patches, by as many processes.

With `--steps`, a small network is trained on them too, from the disk and from an object store
(SeaweedFS, on this machine), and the share of its time is printed in which it waits for patches.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.demo.demo import PHOTOS_DIR
from pipeline.compute.stop import Stop
from pipeline.dataset.loader import load_batches
from pipeline.dataset.patch_order import BatchSpec
from pipeline.degradation.apply import degrade_bicubic
from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.formats import EXTENSIONS
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture
from pipeline.reports.dataset_report import write_dataset_report
from pipeline.sources.listing import list_source
from pipeline.storage.dataset import HR, LR_PREFIX, Dataset, DatasetSpec
from pipeline.storage.manifest import Manifest, Origin
from pipeline.training.folder import METRICS
from pipeline.training.request import TrainRequest
from pipeline.training.run import run_training
from tests.services.stores import BUCKET, Bucket, SeaweedFS, environment, in_front_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

HR_PX, SCALE, BATCH, LR = 96, 4, 64, "bicubic"
ROUNDS = 3


@dataclass(frozen=True)
class Settings:
    patches: int
    workers: int
    batches: int
    window: int
    png: int
    steps: int


def parse() -> Settings:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"patches": 20480, "workers": 2, "batches": 160, "window": 40, "png": 2048}
    defaults["steps"] = 0
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return Settings(**vars(parser.parse_args()))


def make_dataset(path: Path, patches: int) -> Dataset:
    """Cut patches at random places of the shipped photographs."""
    photographs = list(read_photographs())
    spec = DatasetSpec(
        scale=SCALE,
        channels=3,
        hr_px=(HR_PX, HR_PX),
        degradations=(LR,),
        recipe={},
        fingerprint="benchmark",
    )
    dataset, rng = Dataset.open_or_create(path, spec), np.random.default_rng(0)
    chunks = -(-patches // spec.chunk_patches)
    for chunk in range(chunks):
        many = min(spec.chunk_patches, patches - chunk * spec.chunk_patches)
        dataset.put_manifest(chunk, make_manifest(photographs, many, rng))
    dataset.grow(patches)
    for chunk in range(chunks):
        manifest = dataset.manifest(chunk)
        hr = cut(photographs, manifest)
        lr = np.stack([degrade_bicubic(patch, SCALE) for patch in hr])
        dataset.write(chunk, {HR: hr, LR_PREFIX + LR: lr})
    return dataset


def read_photographs() -> Iterator[Pixels]:
    for file in list_source(str(PHOTOS_DIR)):
        if file.item.lower().endswith(tuple(EXTENSIONS)):
            pixels = read_picture(file.read(), name=file.item).pixels
            yield np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels


def make_manifest(photographs: list[Pixels], many: int, rng: np.random.Generator) -> Manifest:
    pictures = rng.integers(len(photographs), size=many)
    room = np.array([photographs[n].shape[1:] for n in pictures]) - HR_PX
    return Manifest(
        tuple(Origin(item=f"{n}", sha256="", split="train") for n in range(len(photographs))),
        places=np.arange(many),
        pictures=pictures,
        corners=rng.integers(room + 1),
        seeds=rng.integers(2**62, size=many),
        hashes=np.array([], dtype=np.uint64),
    )


def cut(photographs: list[Pixels], manifest: Manifest) -> Pixels:
    places = zip(manifest.pictures.tolist(), manifest.corners.tolist(), strict=True)
    return np.stack(
        [photographs[n][:, top : top + HR_PX, left : left + HR_PX] for n, (top, left) in places]
    )


def patches_a_second(dataset: Dataset, settings: Settings, memory: str, workers: int) -> float:
    """Return the best of some rounds, the start of processes apart."""
    spec = BatchSpec(batch_size=BATCH, seed=0, window_chunks=settings.window)
    rates = []
    with load_batches(dataset, spec, memory=memory, workers=workers) as batches:
        for _ in islice(batches, 32):
            pass
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for _ in islice(batches, settings.batches):
                pass
            rates.append(settings.batches * BATCH / (time.perf_counter() - began))
    return max(rates)


def write_png(dataset: Dataset, folder: Path, patches: int) -> None:
    for name in (HR, LR_PREFIX + LR):
        (folder / name).mkdir(parents=True)
        for n, pixels in enumerate(dataset.read(name, np.arange(patches))):
            picture = Picture(pixels=pixels, metadata=Metadata(format="png", mode="RGB"))
            write_picture(folder / name / f"{n}.png", picture, format="png")


def read_png(folder: str, numbers: list[int]) -> None:
    """Read patches as a training does that keeps them in files: decode, turn, collate."""
    for start in range(0, len(numbers), BATCH):
        for name in (HR, LR_PREFIX + LR):
            paths = [Path(folder, name, f"{n}.png") for n in numbers[start : start + BATCH]]
            pixels = [read_picture(path.read_bytes(), name=path.name).pixels for path in paths]
            np.stack([np.rot90(patch, n % 4, axes=(1, 2)) for n, patch in enumerate(pixels)])


def png_a_second(folder: Path, settings: Settings) -> float:
    numbers = np.random.default_rng(0).permutation(settings.png).tolist()
    shares = [numbers[n :: settings.workers] for n in range(settings.workers)]
    with multiprocessing.get_context("spawn").Pool(settings.workers) as pool:
        jobs = [(str(folder), share) for share in shares]
        pool.starmap(read_png, [(folder, share[:BATCH]) for folder, share in jobs], chunksize=1)
        began = time.perf_counter()
        pool.starmap(read_png, jobs, chunksize=1)
        return settings.png / (time.perf_counter() - began)


def trained(place: object, out: Path, settings: Settings) -> str:
    """Train from a place, whose patches are not kept in memory; return how long it waited."""
    asked = (f"steps={settings.steps}", f"validate_every={max(1, settings.steps // 8)}")
    request = TrainRequest(
        src=str(place),
        out_dir=out,
        recipe="span-x4",
        settings=(*asked, "arguments.features=16", "batch=64", "validation_patches=0"),
        memory="disk",
        readers=1,
    )
    run_training(request, stop=Stop(), write_report=write_dataset_report)
    with (out / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    # Until the first row, the process that reads is started.
    seconds, waited = (
        float(rows[-1][name]) - float(rows[0][name]) for name in ("seconds", "waiting_s")
    )
    return f"{seconds:.1f} s of steps, waited {waited / seconds:.2%} of them"


def compare_trainings(dataset: Dataset, folder: Path, settings: Settings) -> None:
    """Print how long a training waits for patches on the disk, and in a store."""
    print(f"training from the disk: {trained(dataset.path, folder / 'disk', settings)}")
    (folder / "weed").mkdir()
    store = SeaweedFS(folder / "weed")
    store.start()
    try:
        store.make_bucket(BUCKET)
        with in_front_of(store) as front:
            os.environ |= environment(store.endpoint)
            bucket = Bucket("dataset")
            bucket.put(Path(str(dataset.path)), "set")
            print(f"training from a store: {trained(bucket / 'set', folder / 'store', settings)}")
            os.environ |= environment(front.endpoint)
            rows = Dataset.open(bucket / "set").rows("train")
            print(f"{len(rows):,} rows looked up: {front.requests.total()} requests")
    finally:
        store.kill()


def main() -> None:
    settings = parse()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset", settings.patches)
        size = sum(f.stat().st_size for f in (Path(folder) / "dataset").rglob("*") if f.is_file())
        write_png(dataset, Path(folder) / "png", settings.png)
        rates = {
            "one process": patches_a_second(dataset, settings, "disk", 0),
            f"{settings.workers} worker processes": patches_a_second(
                dataset, settings, "disk", settings.workers
            ),
            "from RAM": patches_a_second(dataset, settings, "ram", 0),
        }
        png = png_a_second(Path(folder) / "png", settings)
        if settings.steps:
            compare_trainings(dataset, Path(folder), settings)
    print(f"{settings}: {size / settings.patches / 1e3:.1f} kB a patch with its LR")
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} patches/s, {rate / png:.1f} times the rate from PNG files")
    print(f"PNG files, {settings.workers} processes: {png:,.0f} patches/s")


if __name__ == "__main__":
    main()
