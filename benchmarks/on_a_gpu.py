"""All that is to be known of one GPU in ten minutes: tests, the engine, and some training.

Each part leaves its results in a folder as soon as it has them; repeat the command to do what is
missing, and to train on. It needs no network. Prepare the patches for the training beforehand:

    upres prepare PICTURES patches --recipe span-x4 --set count=40
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.rig import Settings, make_pictures, read_pictures
from pipeline.compute.backends import TORCH
from pipeline.compute.inference import Inference, load_model, resolve_device, resolve_precision
from pipeline.compute.stop import Stop
from pipeline.errors import UpresError
from pipeline.jobs.listener import JobListener
from pipeline.jobs.stages import open_stages
from pipeline.jobs.upscale.worker import batch_px
from pipeline.recipes.files import recipe_names
from pipeline.training.folder import STATE
from pipeline.training.request import TrainRequest
from pipeline.training.run import run_training
from pipeline.training.state import stored_seconds, stored_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16, by the makers' data sheets, for names that hold these words."""
TESTS_S = 120.0
_GRACE_S = 20.0
"""What a training takes to stop and to write its state."""
_TURNS = 3


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    out: Path
    patches: Path | None
    device: str
    minutes: float
    tests: str
    model: str
    pictures: int
    side: int
    tile: int
    recipes: tuple[str, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Session:
    """One run of the script: what is asked, and when its time is up."""

    asked: Asked
    ends: float

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do a part, unless its results are there or the time is up, and keep its results."""
        path = self.asked.out / f"{name}.json"
        if path.exists():
            say(f"{name}: done before, {path}")
            return
        if self.left_s <= 0:
            say(f"{name}: no time left; repeat the command")
            return
        began = time.monotonic()
        try:
            found = work()
        except (UpresError, RuntimeError, OSError) as error:
            say(f"{name}: FAILED, {error}")
            return
        keep(path, found | {"part_s": round(time.monotonic() - began, 1)})


def say(line: str) -> None:
    print(line, flush=True)


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write results, whole or not at all, and print them."""
    path.with_suffix(".partial").write_text(json.dumps(found, indent=2) + "\n")
    path.with_suffix(".partial").replace(path)
    for name, value in found.items():
        say(f"  {path.stem}  {name}: {value}")


# --- 1. tests ------------------------------------------------------------------------------------


def tests(session: Session) -> dict[str, Any]:
    """Run the tests that need a GPU, for two minutes at most."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", *session.asked.tests.split()]
    limit_s = min(TESTS_S, max(1.0, session.left_s))
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the tests took more than {limit_s:.0f} s") from error
    (session.asked.out / "tests.txt").write_text(ended.stdout + ended.stderr)
    lines = [line for line in ended.stdout.splitlines() if line.strip()]
    return {"exit_code": ended.returncode, "said": lines[-1] if lines else ""}


# --- 2. engine and network -----------------------------------------------------------------------


def engine(session: Session) -> dict[str, Any]:
    """Time the engine and the bare network in turn on the same windows."""
    asked = session.asked
    settings = Settings(asked.model, asked.tile, asked.pictures, asked.side, "auto")
    device = resolve_device(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        make_pictures(pictures, settings)
        read = read_pictures(pictures)
        runs = []
        for turn in range(_TURNS):
            bare = _network_seconds(read, settings, device)
            whole = _engine_seconds(pictures, Path(folder) / f"job{turn}", settings, device)
            runs.append((bare, whole))
            say(f"  network {bare:.2f} s, engine {whole:.2f} s, efficiency {bare / whole:.2f}")
    bare, whole = sorted(runs, key=lambda run: run[0] / run[1])[_TURNS // 2]
    network = load_model(asked.model)
    windows = _windows(read, settings, device)
    lr_px = sum(batch.shape[0] * batch.shape[2] * batch.shape[3] for batch in windows)
    sr_megapixels = sum(p[0].size for p in read) * network.spec.scale**2 / 1e6
    tflops = 2 * _weights(network.network) * lr_px / bare / 1e12
    precision = resolve_precision("auto", device=device)
    peak = _peak(device, precision)
    return {
        "device": _called(device),
        "precision": precision,
        "efficiency": round(bare / whole, 3),
        "engine_mp_s": round(sr_megapixels / whole, 1),
        "network_mp_s": round(sr_megapixels / bare, 1),
        "network_tflops": round(tflops, 3),
        **peak,
        **{f"of_{name}": round(tflops / value, 3) for name, value in peak.items()},
    }


def _engine_seconds(pictures: Path, job_dir: Path, settings: Settings, device: str) -> float:
    """Return how long the upscale stage takes on `device`."""
    request = replace(settings.request(pictures, job_dir), device=device, backend=TORCH)
    with open_stages(request, JobListener(), command="benchmark") as stages:
        stages.ingest()
        began = time.perf_counter()
        stages.upscale()
        seconds = time.perf_counter() - began
        status = stages.run.status()
    if not status.complete:
        raise RuntimeError(f"the run failed: {status.failures[:3]}")
    return seconds


def _network_seconds(pictures: list[NDArray[np.uint8]], settings: Settings, device: str) -> float:
    """Return how long the bare network takes on the same windows, which are on the device."""
    inference = _inference(settings.model, device, resolve_precision("auto", device=device))
    batches = _windows(pictures, settings, device)
    for batch in {tuple(b.shape): b for b in batches}.values():
        inference.backend.run(batch, inference.precision)
    _wait(device)
    began = time.perf_counter()
    for batch in batches:
        inference.backend.run(batch, inference.precision)
    _wait(device)
    return time.perf_counter() - began


def _windows(
    pictures: list[NDArray[np.uint8]], settings: Settings, device: str
) -> list[torch.Tensor]:
    """Return the windows of all tiles as batches that fill the device, equal ones together."""
    spec = settings.spec
    equal: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
    for pixels in pictures:
        grid = spec.grid(*pixels.shape[1:])
        for tile in grid:
            window = pixels[grid.window(tile).index]
            equal.setdefault(window.shape, []).append(window)
    batches = []
    for (_, rows, cols), windows in equal.items():
        many = max(1, batch_px(device) // (rows * cols))
        for start in range(0, len(windows), many):
            batch = torch.from_numpy(np.stack(windows[start : start + many]))
            batches.append(batch.to(device).float().div_(255))
    return batches


def bits(session: Session) -> dict[str, Any]:
    """Compare the device's pixels with those of the CPU in fp32, and its tiles with the whole."""
    asked = session.asked
    settings = Settings(asked.model, asked.tile, 1, min(asked.side, 512), "auto")
    device = resolve_device(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder) / "in", settings)
        (pixels,) = read_pictures(Path(folder) / "in")
    found: dict[str, Any] = {"device": _called(device)}
    truth = _inference(asked.model, "cpu", "fp32").enlarge(pixels)
    halo = settings.spec.halo_px
    for precision in ("fp32", "bf16"):
        inference = _inference(asked.model, device, precision)
        whole = inference.enlarge(pixels)
        tiled = inference.enlarge_tiled(pixels, tile_px=max(16, asked.side // 4), halo_px=halo)
        found |= {
            f"{precision}_equal_to_cpu_fp32": _equal(whole, truth),
            f"{precision}_most_levels_apart": _apart(whole, truth),
            f"{precision}_tiles_equal_to_whole": _equal(tiled, whole),
            f"{precision}_tiles_most_levels_apart": _apart(tiled, whole),
        }
    return found


def _equal(one: NDArray[Any], other: NDArray[Any]) -> float:
    return round(float((one == other).mean()), 6)


def _apart(one: NDArray[Any], other: NDArray[Any]) -> int:
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())


def _inference(model: str, device: str, precision: str) -> Inference:
    loaded = load_model(model)
    return Inference.of(
        loaded.network,
        scale=loaded.spec.scale,
        channels=loaded.spec.channels,
        precision=precision,
        device=device,
    )


def _weights(network: torch.nn.Module) -> int:
    """Return the multiplications for an LR pixel, of networks that convolve in LR alone."""
    return sum(p.numel() for p in network.parameters() if p.ndim > 1)


def _peak(device: str, precision: str) -> dict[str, float]:
    """Return the peak of a precision: of one large product, and of bf16 by the data sheet."""
    name = _called(device) if precision == "bf16" else ""
    sheet = [value for words, value in PEAK_TFLOPS.items() if all(w in name for w in words.split())]
    side = 8192 if device.startswith("cuda") else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.rand(side, side, device=device, dtype=dtype)
    one @ one
    _wait(device)
    began = time.perf_counter()
    for _ in range(10):
        one @ one
    _wait(device)
    product = 10 * 2 * side**3 / (time.perf_counter() - began) / 1e12
    return {**({"sheet_tflops": sheet[0]} if sheet else {}), "product_tflops": round(product, 3)}


def _called(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# --- 3. training ---------------------------------------------------------------------------------


def training(session: Session, recipe: str, limit_s: float) -> None:
    """Train by a recipe until it ends or the time is up; its state goes on from there anywhere."""
    asked = session.asked
    out_dir = asked.out / "training" / recipe
    path = asked.out / f"training-{recipe}.json"
    state = out_dir / STATE
    before = stored_step(state) if state.exists() else 0
    stop = Stop()
    timer = threading.Timer(max(1.0, limit_s), stop.request)
    timer.start()
    try:
        result = run_training(
            TrainRequest(
                src=str(asked.patches),
                out_dir=out_dir,
                recipe=recipe,
                settings=asked.settings,
                device=asked.device,
                resume=state.exists(),
            ),
            stop=stop,
            write_report=lambda *_args, **_more: None,
        )
    finally:
        timer.cancel()
    seconds, waited = stored_seconds(state)
    keep(
        path,
        {
            "device": _called(resolve_device(asked.device)),
            "steps": result.steps,
            "of_steps": result.of_steps,
            "steps_in_this_run": result.steps - before,
            "steps_a_second": round(result.steps / max(seconds, 1e-9), 3),
            "share_of_waiting": round(waited / max(seconds, 1e-9), 4),
            "checkpoint": str(out_dir),
        },
    )


def trainings(session: Session) -> None:
    """Share the time that is left out among the recipes that did not end."""
    asked = session.asked
    if asked.patches is None:
        say("training: left out, as no --patches DATASET is named")
        return
    known = [name for name in asked.recipes if name in recipe_names() or Path(name).is_file()]
    for name in asked.recipes:
        if name not in known:
            say(f"training {name}: left out, as no recipe has that name")
    for n, name in enumerate(known):
        limit_s = (session.left_s - _GRACE_S * (len(known) - n)) / (len(known) - n)
        if limit_s <= 0:
            say(f"training {name}: no time left; repeat the command")
            continue
        say(f"training {name}: {limit_s:.0f} s at most")
        try:
            training(session, name, limit_s)
        except (UpresError, RuntimeError, OSError) as error:
            say(f"training {name}: FAILED, {error}")


def main(words: list[str] | None = None) -> None:
    """Do all parts, in this order."""
    asked = parse(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    session = Session(asked, time.monotonic() + 60 * asked.minutes)
    say(f"on {_called(resolve_device(asked.device))}, {asked.minutes:g} minutes at most")
    session.part("tests", lambda: tests(session))
    session.part("engine", lambda: engine(session))
    session.part("bits", lambda: bits(session))
    trainings(session)
    say(f"results are in {asked.out}")


def parse(words: list[str] | None) -> Asked:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("on-a-gpu"))
    parser.add_argument("--patches", type=Path, help="dataset to train on")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tests", default="tests", help="which tests are looked through")
    parser.add_argument("--model", default="span-x4")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--recipes", nargs="*", default=["span-x4", "span-x4-archive"])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    values = vars(parser.parse_args(words))
    return Asked(**values | {n: tuple(values[n]) for n in ("recipes", "settings")})


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    main()
