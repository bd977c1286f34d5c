"""`upres prepare` against a plain multiprocessing script that writes a PNG file for each patch.

The script is the way of BasicSR's `extract_subimages`: a pool of processes, a picture each, grid
patches of HR and LR as PNG files of compression level 3. Ours reads every picture twice, keeps
which patch is from where, and leaves arrays with checksums. Both make the same patches, 96 px and
24 px, on the same cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.rig import photographs
from pipeline.compute.stop import Stop
from pipeline.dataset.request import PrepareRequest
from pipeline.dataset.run import prepare_dataset
from pipeline.reports.dataset_report import write_dataset_report
from pipeline.storage.dataset import Dataset

PATCH, SCALE = 96, 4
RECIPE = f"""
name = "benchmark"
scale = {SCALE}

[prepare]
extract = "grid"
patch_hr_px = {PATCH}
stride_px = STRIDE
degradations = [{{ name = "bicubic" }}]
"""


def extract(work: tuple[Path, Path, int]) -> int:
    """Write the patches of one picture as PNG files, as the field does."""
    file, out, stride = work
    with Image.open(file) as found:
        hr = found.convert("RGB")
    width, height = (side - side % SCALE for side in hr.size)
    hr = hr.crop((0, 0, width, height))
    lr = hr.resize((width // SCALE, height // SCALE), Image.Resampling.BICUBIC)
    count = 0
    for top in range(0, height - PATCH + 1, stride):
        for left in range(0, width - PATCH + 1, stride):
            count += 1
            name = f"{file.stem}_s{count:04}.png"
            box = (left, top, left + PATCH, top + PATCH)
            hr.crop(box).save(out / "hr" / name, compress_level=3)
            small = tuple(edge // SCALE for edge in box)
            lr.crop(small).save(out / "lr" / name, compress_level=3)
    return count


def field(pictures: Path, out: Path, stride: int, processes: int) -> tuple[int, float]:
    """Return how many patches the script writes, and in how many seconds."""
    for name in ("hr", "lr"):
        (out / name).mkdir(parents=True)
    work = [(file, out, stride) for file in sorted(pictures.iterdir())]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        count = sum(pool.imap_unordered(extract, work))
    return count, time.perf_counter() - began


def ours(pictures: Path, out: Path, stride: int, processes: int) -> tuple[int, float]:
    """Return the same for `upres prepare`, from the command's start to its end."""
    recipe = out.with_suffix(".toml")
    recipe.write_text(RECIPE.replace("STRIDE", str(stride)))
    began = time.perf_counter()
    request = PrepareRequest(
        src=str(pictures),
        dataset_dir=out,
        recipe=str(recipe),
        workers=processes,
    )
    result = prepare_dataset(request, stop=Stop(), write_report=write_dataset_report)
    seconds = time.perf_counter() - began
    if not result.status.complete:
        raise SystemExit(f"the run failed: {result.status.failures[:3]}")
    return len(Dataset.open(out)), seconds


def files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--stride", type=int, default=64)
    parser.add_argument("--processes", type=int, default=min(8, len(os.sched_getaffinity(0))))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        photographs(pictures, given.pictures)
        for turn in range(given.turns):
            told = {}
            for name, way in (("png files", field), ("upres", ours)):
                out = Path(folder) / f"{name}{turn}".replace(" ", "")
                count, seconds = way(pictures, out, given.stride, given.processes)
                told[name] = (count, seconds, files_in(out))
                shutil.rmtree(out)
            (many, slow, theirs), (same, fast, own) = told["png files"], told["upres"]
            if many != same:
                raise SystemExit(f"{many} patches there, {same} here: not the same work")
            print(
                f"{many} patches: png files {slow:.1f} s ({many / slow / given.processes:.0f} "
                f"patches/s/core, {theirs} files), upres {fast:.1f} s "
                f"({many / fast / given.processes:.0f} patches/s/core, {own} files): "
                f"{slow / fast:.2f} times as fast, {own / theirs:.4f} of the files"
            )
    print(given)


if __name__ == "__main__":
    main()
