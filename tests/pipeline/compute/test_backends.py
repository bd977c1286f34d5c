"""Backends: tiles, batches and threads change no bit, and nothing fails in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pipeline.compute.backends
from models.checkpoint import to_bytes
from models.span import Span
from models.spec import ModelSpec
from pipeline.compute.backends import OpenVinoBackend, resolve_backend
from pipeline.compute.inference import Inference, load_model, resolve_precision
from pipeline.compute.threads import in_threads
from pipeline.errors import ModelError, NotFiniteError, UsageError
from pipeline.geometry import Rect
from pipeline.geometry import Span as Pixels
from pipeline.jobs.job import open_job
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.worker import ModelAddress, Workbench, open_workbench
from tests.examples import examples, pairs
from tests.pipeline.compute.even_sum import SCALE, summing, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from pipeline.jobs.spec import UpscaleSpec
    from tests.conftest import Command, Digest, SavePicture, TakePhoto

REACH = 21
SCALES = {"span-x4": 4, "random-x2": 2}
ENGINES = [("openvino", "fp32"), ("torch", "fp32"), ("openvino", "bf16"), ("torch", "bf16")]

HAS_BF16 = resolve_precision("auto", device="cpu") == "bf16"

pytestmark = pytest.mark.skipif(
    resolve_backend("auto", device="cpu", model="span-x4") != "openvino",
    reason="openvino is for x86 CPUs",
)

models = pytest.mark.parametrize("model", SCALES)
backends = pytest.mark.parametrize("backend", ["torch", "openvino"])
precisions = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def network(model: str) -> nn.Module:
    if model == "span-x4":
        return load_model(model).network
    torch.manual_seed(0)
    random = Span(scale=2)
    with torch.no_grad():
        for parameter in random.parameters():
            # Larger weights, so that what is far away shows.
            parameter.mul_(1.5)
    return random


def opened(model: str, backend: str, precision: str) -> Inference:
    if (backend, precision) == ("openvino", "bf16") and not HAS_BF16:
        pytest.skip("this CPU does not compute in bf16, and openvino says so")
    return Inference.of(
        network(model), scale=SCALES[model], channels=3, precision=precision, backend=backend
    )


@cache
def engine(model: str, backend: str, precision: str) -> Inference:
    """Return what computes on one thread, as each worker of many does."""
    return opened(model, backend, precision)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    wanted = getattr(request, "param", 1)
    with in_threads(wanted):
        yield wanted


def picture(height: int, width: int, *batch: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.random((*batch, 3, height, width), dtype=np.float32)


def assert_tiles_are_the_whole(run: Inference, height: int, width: int, tile_px: int) -> None:
    x = picture(height, width)
    # float32 in, float32 out: nothing is hidden by rounding to 256 steps.
    np.testing.assert_array_equal(
        run.enlarge_tiled(x, tile_px=tile_px, halo_px=REACH), run.enlarge(x)
    )


# --- exactness ----------------------------------------------------------------------------------

sizes = st.integers(1, 70) | st.sampled_from([1, 2, 3, 53, 97])
unhurried = settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@backends
@examples(60)
@given(height=sizes, width=sizes, tile_px=st.integers(16, 64))
@example(height=97, width=97, tile_px=16)
@example(height=1, width=120, tile_px=17)
@example(height=97, width=1, tile_px=56)
def test_tiles_read_all_that_a_network_looks_at(
    backend: str, height: int, width: int, tile_px: int
) -> None:
    run, x = summing(backend, reach_px=REACH), whole_numbers(3, height, width)
    tiled = run.enlarge_tiled(x, tile_px=tile_px, halo_px=REACH)
    np.testing.assert_array_equal(tiled, run.enlarge(x))


@backends
def test_a_halo_that_is_one_pixel_short_would_show(backend: str) -> None:
    run, x = summing(backend, reach_px=REACH), whole_numbers(3, 97, 97)
    tiled = run.enlarge_tiled(x, tile_px=16, halo_px=REACH - 1)
    wrong = (tiled != run.enlarge(x)).any(axis=0)
    # The last row of a tile, and the first row of the next one; likewise for columns.
    for border in (48 * SCALE - 1, 48 * SCALE):
        assert wrong[border].all()
        assert wrong[:, border].all()


@pytest.mark.parametrize(("model", "engine_of"), pairs(SCALES, ENGINES), ids=str)
@unhurried
@given(height=sizes, width=sizes, tile_px=st.integers(16, 64))
@example(height=1, width=120, tile_px=17)
@example(height=97, width=1, tile_px=56)
@example(height=29, width=40, tile_px=64)
@example(height=31, width=65, tile_px=16)
def test_tiles_are_the_whole_picture_bit_for_bit(
    model: str, engine_of: tuple[str, str], height: int, width: int, tile_px: int
) -> None:
    assert_tiles_are_the_whole(engine(model, *engine_of), height, width, tile_px)


@pytest.mark.slow
@models
@precisions
@settings(unhurried, max_examples=12)
@given(height=st.integers(1, 260), width=st.integers(1, 260), tile_px=st.integers(16, 200))
def test_tiles_of_large_pictures_are_the_whole_picture_in_openvino(
    model: str, precision: str, height: int, width: int, tile_px: int
) -> None:
    assert_tiles_are_the_whole(engine(model, "openvino", precision), height, width, tile_px)


@pytest.mark.slow
@models
@backends
@precisions
@pytest.mark.parametrize("size", [(20, 21), (1, 30), (37, 1), (53, 31)])
def test_a_window_has_the_same_bits_in_every_batch(
    model: str, backend: str, precision: str, size: tuple[int, int]
) -> None:
    run = engine(model, backend, precision)
    windows = picture(*size, 16)
    all_at_once = run.enlarge_batch(windows)
    for few in (1, 2, 5):
        np.testing.assert_array_equal(run.enlarge_batch(windows[:few]), all_at_once[:few])
        np.testing.assert_array_equal(run.enlarge_batch(windows[-few:]), all_at_once[-few:])


@pytest.mark.parametrize("features", [48, 64])
def test_many_small_pictures_have_the_bits_of_each_one_alone(features: int) -> None:
    torch.manual_seed(features)
    network = Span(scale=4, features=features)
    inference = Inference.of(network, scale=4, channels=3, precision="fp32")
    x = torch.rand(17, 3, 24, 32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        together = inference.backend.run(x, "fp32")
        alone = [inference.backend.run(one, "fp32") for one in x.split(1)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.slow
@backends
@precisions
@pytest.mark.parametrize("threads", [2, 3], indirect=True)
@pytest.mark.parametrize("size", [(67, 83), (1, 200)])
def test_several_threads_compute_the_bits_of_one(
    backend: str, precision: str, threads: int, size: tuple[int, int]
) -> None:
    several = opened("span-x4", backend, precision).enlarge(picture(*size))
    torch.set_num_threads(1)
    one = engine("span-x4", backend, precision).enlarge(picture(*size))
    np.testing.assert_array_equal(several, one)


@precisions
def test_a_result_is_not_overwritten_by_the_next(precision: str) -> None:
    run = engine("span-x4", "openvino", precision)
    first = run.forward_only(picture(30, 40))
    before = first.clone()
    run.forward_only(picture(30, 40) / 2)
    run.forward_only(picture(40, 30))
    assert torch.equal(first, before)


def test_windows_that_are_given_up_at_once_are_read_until_the_end() -> None:
    # Grey becomes three channels, a copy that nothing else holds.
    run = opened("span-x4", "openvino", "fp32")
    grey = [picture(side, side)[:1] for side in (20, 51, 35, 64)]
    for x in grey:
        colour = run.enlarge(np.repeat(x, 3, axis=0))
        np.testing.assert_array_equal(run.enlarge(x), colour.mean(axis=0, keepdims=True))


def test_openvino_in_fp32_is_torch_in_fp32_within_one_level(photo: TakePhoto) -> None:
    lr = photo(96, 128)
    found = engine("span-x4", "openvino", "fp32").enlarge(lr).astype(int)
    wanted = engine("span-x4", "torch", "fp32").enlarge(lr).astype(int)
    assert abs(found - wanted).max() <= 1
    assert (found != wanted).mean() < 0.001


@pytest.mark.slow
def test_two_workers_write_what_one_writes(
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    save(tmp_path / "pictures" / "a.png", photo(70, 90))
    save(tmp_path / "pictures" / "b.tif", photo(50, 33, 4, "uint16", at=90))
    words = ("--tile", 32, "--device", "cpu", "--backend", "openvino", "--json")
    for job, workers in (("two", cluster), ("one", ("--workers", 1))):
        said = upres("upscale", tmp_path / "pictures", tmp_path / job, *words, *workers)
        assert (said.code, said.document["units"]["done"]) == (0, 13)
    assert digest(tmp_path / "two" / "sr.zarr") == digest(tmp_path / "one" / "sr.zarr")


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.slow
@backends
@precisions
@pytest.mark.parametrize("name", ["head.bias", "blocks.3.conv2.weight", "enlarge.bias"])
def test_weights_of_nan_are_an_error(backend: str, precision: str, name: str) -> None:
    if (backend, precision) == ("openvino", "bf16") and not HAS_BF16:
        pytest.skip("this CPU does not compute in bf16, and openvino says so")
    broken = network("random-x2")
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[0] = torch.nan
    run = Inference.of(broken, scale=2, channels=3, precision=precision, backend=backend)
    with pytest.raises(NotFiniteError):
        run.enlarge(picture(20, 20))


@backends
def test_a_window_that_is_nan_in_bf16_changes_no_other_of_its_batch(backend: str) -> None:
    run = engine("random-x2", backend, "bf16")
    windows = picture(20, 20, 3)
    alone = run.enlarge_batch(windows)
    mended = opened("random-x2", backend, "bf16")
    runs: list[tuple[int, str]] = []
    original = mended.backend.run

    def fails_in_bf16(x: torch.Tensor, precision: str) -> torch.Tensor:
        runs.append((len(x), precision))
        y = original(x, precision)
        if precision == "bf16":
            y[1] = torch.nan
        return y

    mended.backend.run = fails_in_bf16  # type: ignore[method-assign]
    found = mended.enlarge_batch(windows)
    assert runs == [(3, "bf16"), (1, "fp32")]
    np.testing.assert_array_equal(found[[0, 2]], alone[[0, 2]])


_SHORT_OF_MEMORY = """
import resource, sys
import numpy as np, torch
from pipeline.compute.inference import Inference, load_model
from pipeline.jobs.upscale.worker import _out_of_memory
torch.set_num_threads(int(sys.argv[1]))
run = Inference.of(
    load_model("span-x4").network, scale=4, channels=3, precision="fp32", backend="openvino"
)
small = np.full((3, 40, 40), 0.3, np.float32)
before = run.enlarge(small)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
none = resource.RLIM_INFINITY
large = np.full((3, 1600, 1600), 0.3, np.float32)
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, none))
try:
    run.enlarge(large)
    print("it fitted")
except (MemoryError, RuntimeError) as error:
    print("told" if _out_of_memory(error) else f"not recognised: {error}")
resource.setrlimit(resource.RLIMIT_AS, (none, none))
print(np.array_equal(run.enlarge(small), before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("count", [1, 2])
def test_memory_that_runs_out_in_openvino_is_told_and_the_next_window_is_sound(count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY, str(count)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("told\nTrue\n", "", 0)


def test_a_window_that_openvino_has_no_memory_for_is_halved_to_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = opened("random-x2", "openvino", "fp32")
    pixels = picture(60, 70)
    whole = Rect(Pixels(0, 60), Pixels(0, 70))
    wanted = run.enlarge(pixels)
    original = OpenVinoBackend.run

    def short_of_memory(self: Any, x: torch.Tensor, precision: str) -> torch.Tensor:
        if x.shape[2] * x.shape[3] > 3000:
            raise RuntimeError("Check 'ptr' failed at x.cpp:257:\nFailed to allocate 9 bytes")
        return original(self, x, precision)

    monkeypatch.setattr(OpenVinoBackend, "run", short_of_memory)
    bench = Workbench(run, 512 * 512)
    np.testing.assert_array_equal(bench.enlarge_core(pixels, whole, whole, REACH), wanted)
    assert bench.most_px is not None


def test_a_precision_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiled:
        def get_property(self, _name: str) -> Any:
            return run._library.Type.f32

    run = OpenVinoBackend(network("random-x2"), channels=3, scale=2)
    monkeypatch.setattr(run, "_core", type("Core", (), {"compile_model": lambda *_: Compiled()})())
    with pytest.raises(ModelError, match="computes in f32, expected bf16"):
        run.run(torch.rand(1, 3, 4, 4), "bf16")


def test_what_openvino_keeps_for_each_shape_is_given_up_after_many_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline.compute.backends, "_MOST_SHAPES", 3)
    compiled: list[str] = []
    original = OpenVinoBackend._compiled

    def counted(self: OpenVinoBackend, precision: str) -> Any:
        compiled.append(precision)
        return original(self, precision)

    monkeypatch.setattr(OpenVinoBackend, "_compiled", counted)
    run, x = opened("random-x2", "openvino", "fp32"), picture(20, 20)
    first = run.enlarge(x)
    for width in (20, 21, 22, 20, 23, 24, 25):
        run.enlarge(picture(20, width))
    assert compiled == ["fp32"] * 2
    np.testing.assert_array_equal(run.enlarge(x), first)


_QUIET = """
import sys, warnings
warnings.simplefilter("always")
import numpy as np
from pipeline.compute.inference import Inference, load_model
run = Inference.of(
    load_model("span-x4").network, scale=4, channels=3, precision="fp32", backend="openvino"
)
run.enlarge(np.zeros((3, 9, 9), np.uint8))
print(sorted(n for n, m in sys.modules.items() if n.startswith("openvino_telemetry") and m))
"""


@pytest.mark.slow
def test_openvino_tells_nobody_and_writes_and_prints_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _QUIET],
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert list(tmp_path.rglob("*")) == []


_SIGNALLED = """
import gc, os, signal
import numpy as np
from models.span import Span
from pipeline.compute.inference import Inference
def opened():
    return Inference.of(
        Span(scale=2, features=4), scale=2, channels=3, precision="fp32", backend="openvino"
    )
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first, second = opened(), opened()
for run in (first, second):
    run.enlarge(np.zeros((3, 9, 9), np.uint8))
del run, first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_process_that_gave_up_networks_survives_a_signal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.stdout, done.stderr, done.returncode) == ("handled\n", "", 0)


# --- which one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "device", "model", "found"),
    [
        ("auto", "cpu", "span-x4", "openvino"),
        ("openvino", "cpu", "span-x4", "openvino"),
        ("torch", "cpu", "span-x4", "torch"),
        ("auto", "cuda", "span-x4", "torch"),
        ("auto", "cpu", "bicubic-x2", "torch"),
        ("torch", "cuda:1", "bicubic", "torch"),
    ],
)
def test_a_backend_is_chosen_by_device_and_model(
    wanted: str, device: str, model: str, found: str
) -> None:
    assert resolve_backend(wanted, device=device, model=model) == found


@pytest.mark.parametrize(
    ("wanted", "device", "model", "words"),
    [
        ("tpu", "cpu", "span-x4", "backend is 'tpu', expected auto, torch or openvino"),
        ("openvino", "cuda", "span-x4", "the device is cuda, expected cpu; take --backend torch"),
        ("openvino", "cpu", "bicubic-x2", "the model is bicubic-x2, expected a network"),
    ],
)
def test_a_backend_that_cannot_be_is_wrong_usage(
    wanted: str, device: str, model: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_backend(wanted, device=device, model=model)


def test_auto_is_torch_on_other_machines_and_without_openvino(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as other:
        other.setattr(pipeline.compute.backends.platform, "machine", lambda: "aarch64")
        assert resolve_backend("auto", device="cpu", model="span-x4") == "torch"
        with pytest.raises(UsageError, match="this machine is aarch64"):
            resolve_backend("openvino", device="cpu", model="span-x4")
    monkeypatch.setattr(pipeline.compute.backends.importlib.util, "find_spec", lambda _: None)
    assert resolve_backend("auto", device="cpu", model="span-x4") == "torch"
    with pytest.raises(UsageError, match="not installed"):
        resolve_backend("openvino", device="cpu", model="span-x4")


def span_spec(backend: str) -> UpscaleSpec:
    return make_spec(
        "span-x4", tile_px=64, halo="auto", precision="fp32", device="cpu", backend=backend
    )


def test_the_fingerprint_knows_the_backend() -> None:
    assert span_spec("auto") == span_spec("openvino")
    assert span_spec("torch").fingerprint() != span_spec("openvino").fingerprint()


def test_a_worker_without_openvino_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = span_spec("openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"openvino cannot be imported on .*pip install"):
        open_workbench(ModelAddress(name_or_file="span-x4"), spec)


@pytest.mark.slow
def test_a_rerun_of_a_job_of_an_older_upres_says_what_to_do(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command, cluster: tuple[str, str]
) -> None:
    save(tmp_path / "pictures" / "a.png", photo(20, 30))
    words = (tmp_path / "pictures", tmp_path / "job", "--model", "bicubic-x2", *cluster)
    assert upres("upscale", *words).code == 0
    ledger = open_job(tmp_path / "job").open_ledger()
    kept = ledger.upscaling()
    assert kept is not None
    del kept["spec"]["backend"], kept["backend"]
    ledger.keep_upscaling(kept)
    ledger.close()
    said = upres("rerun", tmp_path / "job", *cluster)
    assert said.code == 1
    assert "run `upres upscale`" in said.err
    assert len(said.err.splitlines()) == 1
    assert upres("upscale", *words).code == 0
    assert upres("rerun", tmp_path / "job", *cluster).code == 0


def test_a_rerun_with_another_model_takes_the_backend_that_it_has(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command, cluster: tuple[str, str]
) -> None:
    spec = ModelSpec(
        name="tiny", architecture="span", scale=2, channels=3, arguments={"features": 4}
    )
    model = tmp_path / "tiny.safetensors"
    model.write_bytes(to_bytes(spec, Span(scale=2, features=4).state_dict()))
    save(tmp_path / "pictures" / "a.png", photo(20, 30))
    job = tmp_path / "job"
    assert upres("upscale", tmp_path / "pictures", job, "--model", model, *cluster).code == 0
    said = upres("rerun", job, "--stale", "--model", "bicubic-x2", *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, 1)


def test_workers_and_reruns_in_other_folders_find_a_model_by_its_relative_path(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command, cluster: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spec = ModelSpec(
        name="tiny", architecture="span", scale=2, channels=3, arguments={"features": 4}
    )
    content = to_bytes(spec, Span(scale=2, features=4).state_dict())
    (tmp_path / "tiny.safetensors").write_bytes(content)
    save(tmp_path / "pictures" / "a.png", photo(20, 30))
    monkeypatch.chdir(tmp_path)
    assert upres("upscale", "pictures", "job", "--model", "tiny.safetensors", *cluster).code == 0
    save(tmp_path / "pictures" / "a.png", photo(20, 31))
    monkeypatch.chdir(tmp_path / "pictures")
    said = upres("rerun", "../job", "--stale", *cluster, "--json")
    assert (said.code, said.document["failures"]) == (0, [])


@pytest.mark.slow
def test_a_rerun_takes_another_backend_for_all_tiles_or_for_none(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command, cluster: tuple[str, str]
) -> None:
    """The other backend makes other pixels, so no picture is computed by both."""
    save(tmp_path / "pictures" / "a.png", photo(20, 30))
    job = tmp_path / "job"
    words = ("--model", "span-x2", "--tile", 16, "--device", "cpu", "--backend", "openvino")
    assert upres("upscale", tmp_path / "pictures", job, *words, *cluster).code == 0

    def backend_of_job() -> str:
        return str(open_job(job).open_sr().image("a.png").provenance["spec"]["backend"])

    refused = upres("rerun", job, "--backend", "torch", *cluster)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "computes by torch, and the job by openvino" in refused.err
    assert "add --stale to redo them" in refused.err
    for same in ("openvino", "auto"):
        said = upres("rerun", job, "--backend", same, *cluster, "--json")
        assert (said.code, said.document["computed_units"]) == (0, 0)
    assert backend_of_job() == "openvino"
    said = upres("rerun", job, "--stale", "--backend", "torch", *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, 4)
    assert "will recompute 1 picture: model, spec or content changed" in said.err
    assert backend_of_job() == "torch"
    # It is remembered, as is that of an upscaling.
    again = upres("rerun", job, "--stale", *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 0)
    impossible = upres("rerun", job, "--stale", "--model", "bicubic-x2", "--backend", "openvino")
    assert impossible.code == 2
    assert "expected a network" in impossible.err
