"""Batches are a function of dataset, spec and number, wherever and by whom they are read."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.dataset import examples
from pipeline.dataset.examples import Batch, PatchDataset, ResidentPatches, turned
from pipeline.dataset.loader import load_batches
from pipeline.dataset.patch_order import BatchSpec, ShardSampler
from pipeline.errors import DatasetError, UsageError, WorkerError
from pipeline.storage.dataset import HR, LR_PREFIX, Dataset, DatasetSpec
from pipeline.storage.manifest import Manifest, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CHUNKS, SIDE, BATCH = 5, 8, 48
LR = ("plain", "inverse")


def reduced(hr: NDArray[Any]) -> NDArray[np.uint8]:
    """Halve ``(..., y, x)`` by means, which every turn of the square commutes with."""
    blocks = hr.astype(np.uint16)
    blocks = blocks[..., ::2, :] + blocks[..., 1::2, :]
    return ((blocks[..., ::2] + blocks[..., 1::2]) // 4).astype(np.uint8)


def make(path: Path, *, rows: int, hr_px: tuple[int, int], channels: int = 3) -> Dataset:
    """Write random patches; each seventh row holds none, and each tenth is for validation."""
    spec = DatasetSpec(
        scale=2,
        channels=channels,
        hr_px=hr_px,
        degradations=LR,
        recipe={},
        fingerprint="f",
    )
    dataset, many = Dataset.open_or_create(path, spec), spec.chunk_patches
    origins = tuple(Origin(item=split, sha256="", split=split) for split in ("train", "validation"))
    rng = np.random.default_rng(5)
    for chunk, start in enumerate(range(0, rows, many)):
        places = np.array([p for p in range(min(many, rows - start)) if p % 7 != 3])
        manifest = Manifest(
            origins,
            places,
            pictures=(places % 10 == 0).astype(np.int64),
            corners=np.zeros((len(places), 2), dtype=np.int64),
            seeds=rng.integers(2**62, size=len(places)),
            hashes=np.array([], dtype=np.uint64),
        )
        dataset.put_manifest(chunk, manifest)
    dataset.grow(rows)
    for chunk, manifest in enumerate(dataset.manifests()):
        hr = rng.integers(256, size=(len(manifest), channels, *hr_px), dtype=np.uint8)
        lr = reduced(hr)
        dataset.write(chunk, {HR: hr, LR_PREFIX + "plain": lr, LR_PREFIX + "inverse": 255 - lr})
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("loader") / "d", rows=1024 * CHUNKS, hr_px=(SIDE, SIDE))


@pytest.fixture
def own(dataset: Dataset, tmp_path: Path) -> Dataset:
    """A copy that a test may damage."""
    shutil.copytree(dataset.path, tmp_path / "own")
    return Dataset.open(tmp_path / "own")


def spec(**changes: Any) -> BatchSpec:
    return BatchSpec(**{"batch_size": BATCH, "seed": 3, "window_chunks": 2, **changes})


def taken(batches: Iterable[Batch], many: int) -> list[Batch]:
    return list(islice(batches, many))


def equal(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def sampler(dataset: Dataset, **changes: Any) -> ShardSampler:
    ranks = {key: changes.pop(key) for key in ("rank", "world_size") if key in changes}
    wanted = spec(**changes)
    return ShardSampler(PatchDataset(dataset, wanted).chunks, wanted, **ranks)


def symmetries(patch: NDArray[Any]) -> list[bytes]:
    turns = [np.rot90(patch, n, axes=(1, 2)) for n in range(4)]
    return [t.tobytes() for t in turns] + [t[:, :, ::-1].tobytes() for t in turns]


def test_an_epoch_holds_every_patch_once(dataset: Dataset) -> None:
    batches = sampler(dataset, drop_last=False)
    patches = len(PatchDataset(dataset, spec()))
    for epoch in (0, 1):
        found = taken(batches.batches(epoch * len(batches)), len(batches))
        indices = sorted(index for batch in found for index in batch)
        assert indices == list(range(epoch * patches, (epoch + 1) * patches))
        assert {len(batch) for batch in found[:-1]} == {BATCH}
        assert len(found[-1]) == patches % BATCH


def test_an_epoch_without_its_last_batch_holds_no_patch_twice(dataset: Dataset) -> None:
    batches = sampler(dataset)
    patches = len(PatchDataset(dataset, spec()))
    left_out = []
    for epoch in (0, 1):
        found = taken(batches.batches(epoch * len(batches)), len(batches))
        places = [index % patches for batch in found for index in batch]
        assert len(places) == len(set(places)) == patches // BATCH * BATCH
        left_out.append(set(range(patches)) - set(places))
    assert left_out[0] != left_out[1]


def test_the_order_is_of_seed_and_epoch_alone(dataset: Dataset) -> None:
    def order(epoch: int, **changes: Any) -> list[int]:
        return sampler(dataset, **changes).order(epoch).tolist()

    assert order(1) == order(1, batch_size=7)
    assert order(1) != order(0)
    assert order(1) != order(1, seed=4)


def test_a_window_mixes_its_chunks_and_no_others(dataset: Dataset) -> None:
    chunks = PatchDataset(dataset, spec()).chunks
    seen = chunks[sampler(dataset, window_chunks=2).order(0)]
    # Five chunks in windows of two: the windows hold two, two and one, in some order.
    ends = np.flatnonzero([set(seen[:n]).isdisjoint(seen[n:]) for n in range(1, len(seen))]) + 1
    windows = np.split(seen, ends)
    assert sorted(len(set(window)) for window in windows) == [1, 2, 2]
    for window in windows:
        half = len(window) // 2
        assert set(window[:half]) == set(window[half:]) == set(window)


def test_a_window_as_wide_as_the_dataset_shuffles_it_all(dataset: Dataset) -> None:
    chunks = PatchDataset(dataset, spec()).chunks
    seen = chunks[sampler(dataset, window_chunks=CHUNKS).order(0)]
    assert all(len(set(part)) == CHUNKS for part in np.array_split(seen, 20))


def test_ranks_share_the_batches_that_one_process_would_read(dataset: Dataset) -> None:
    alone = taken(sampler(dataset, batch_size=48), 250)
    ranks = [
        taken(sampler(dataset, batch_size=16, rank=rank, world_size=3), 250) for rank in range(3)
    ]
    together = zip(*ranks, strict=True)
    assert [[index for part in parts for index in part] for parts in together] == alone


def test_lr_belongs_to_hr_in_every_turn(dataset: Dataset) -> None:
    patches = PatchDataset(dataset, spec())
    hr = dataset.read(HR, patches.rows[:400])
    batch = patches.read_batch(range(400))
    small = reduced(batch.hr.numpy())
    plain = (small == batch.lr.numpy()).all(axis=(1, 2, 3))
    assert ((255 - small)[~plain] == batch.lr.numpy()[~plain]).all()
    assert 120 < plain.sum() < 280
    turns = [
        symmetries(stored).index(read.tobytes())
        for stored, read in zip(hr, batch.hr.numpy(), strict=True)
    ]
    assert min(np.bincount(turns, minlength=8)) > 20


def test_turn_and_lr_differ_from_epoch_to_epoch(dataset: Dataset) -> None:
    patches = PatchDataset(dataset, spec())
    first, second = (patches.draws([n + len(patches) * e for n in range(200)]) for e in (0, 1))
    assert (first.places == second.places).all()
    assert 0.05 < (first.turns == second.turns).mean() < 0.25
    assert 0.3 < (first.versions == second.versions).mean() < 0.7


def test_rectangles_are_mirrored_and_never_transposed(tmp_path: Path) -> None:
    wide = make(tmp_path / "d", rows=200, hr_px=(4, 8), channels=1)
    patches = PatchDataset(wide, spec())
    batch = patches.read_batch(range(100))
    stored = wide.read(HR, patches.rows[:100])
    turns = [
        [p.tobytes() for p in (s, s[:, ::-1], s[:, :, ::-1], s[:, ::-1, ::-1])].index(r.tobytes())
        for s, r in zip(stored, batch.hr.numpy(), strict=True)
    ]
    assert set(turns) == {0, 1, 2, 3}


def test_without_augmentation_patches_are_as_they_are_stored(dataset: Dataset) -> None:
    patches = PatchDataset(dataset, spec(augment=False, lr=("inverse",), split="validation"))
    batch = patches.read_batch([5, 2, 5])
    rows = patches.rows[[5, 2, 5]]
    assert (batch.hr.numpy() == dataset.read(HR, rows)).all()
    assert (batch.lr.numpy() == dataset.read(LR_PREFIX + "inverse", rows)).all()


def test_the_device_turns_as_the_loop_does() -> None:
    for shape in ((16, 3, 6, 6), (16, 3, 4, 6)):
        patches = torch.randint(256, shape, dtype=torch.uint8)
        turns = np.arange(16) % (8 if shape[2] == shape[3] else 4)
        wanted = np.empty_like(patches.numpy())
        examples._turn_into(wanted, np.arange(16), patches.numpy(), turns)
        assert torch.equal(turned(patches, torch.from_numpy(turns)), torch.from_numpy(wanted))


def test_seeds_are_of_seed_epoch_and_the_patchs_own_seed(dataset: Dataset) -> None:
    patches = PatchDataset(dataset, spec())
    seeds = patches.read_batch(range(300)).seeds
    assert seeds.dtype == torch.int64
    assert int(seeds.min()) >= 0
    assert len(set(seeds.tolist())) == 300
    assert seeds[7] == patches[7].seed == PatchDataset(dataset, spec(lr=()))[7].seed
    assert seeds[7] != patches[7 + len(patches)].seed
    assert seeds[7] != PatchDataset(dataset, spec(seed=4))[7].seed
    patches.patch_seeds[7] += 1
    assert seeds[7] != patches[7].seed


def test_without_lr_only_hr_is_read(own: Dataset) -> None:
    rows = own.rows("train")
    batches = load_batches(own, spec(lr=()), memory="disk")
    for name in LR:
        for shard in (own.path / (LR_PREFIX + name)).glob("c.*"):
            shard.unlink()
    batch = next(batches)
    assert batch.lr.shape == (BATCH, 3, 0, 0)
    assert batch.hr.shape == (BATCH, 3, SIDE, SIDE)
    assert len(rows) > BATCH


@pytest.mark.slow
def test_batches_are_the_same_from_disk_and_from_memory(dataset: Dataset) -> None:
    for changes in ({}, {"lr": ("plain",)}, {"lr": ()}, {"drop_last": False, "augment": False}):
        wanted = spec(**changes)
        patches = PatchDataset(dataset, wanted)
        direct = map(patches.read_batch, ShardSampler(patches.chunks, wanted))
        plain = taken(direct, 100)
        assert equal(plain, taken(load_batches(dataset, wanted, memory="disk"), 100))
        assert equal(plain, taken(load_batches(dataset, wanted, memory="ram"), 100))


def test_the_way_to_gather_on_a_device_gives_the_same(dataset: Dataset) -> None:
    kept = ResidentPatches(PatchDataset(dataset, spec()))
    plain = kept.read_batch(range(50))
    kept.device = torch.device("meta")
    draws = kept._patches.draws(range(50))
    found = examples._gathered_on_device(kept._lr, draws.versions, draws)
    assert torch.equal(found, plain.lr)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("memory", ["auto", "gpu", "ram", "disk"])
def test_batches_are_the_same_on_a_gpu(dataset: Dataset, memory: str) -> None:
    wanted = taken(load_batches(dataset, spec(), memory="disk"), 90)
    found = taken(load_batches(dataset, spec(), memory=memory, device="cuda"), 90)
    assert all(b.hr.is_cuda or b.hr.is_pinned() for b in found)
    assert found[0].hr.is_cuda == (memory in ("auto", "gpu"))
    assert equal(wanted, [Batch(*(t.cpu() for t in batch)) for batch in found])


def test_a_resumed_training_gets_the_next_batch(dataset: Dataset) -> None:
    undisturbed = taken(load_batches(dataset, spec(), memory="ram"), 200)
    for memory in ("ram", "disk"):
        with load_batches(dataset, spec(), memory=memory) as batches:
            taken(batches, 101)
            state = json.loads(json.dumps(batches.state_dict()))
        epoch_batches = len(batches.sampler)
        assert state == {"epoch": 101 // epoch_batches, "step": 101 % epoch_batches}
        with load_batches(dataset, spec(), memory=memory) as batches:
            next(batches)
            batches.load_state_dict(state)
            assert equal(taken(batches, 99), undisturbed[101:])
        bounded = load_batches(dataset, spec(), memory=memory, first=101, stop=200)
        assert equal(bounded, undisturbed[101:])


def test_batches_end_before_stop(dataset: Dataset) -> None:
    assert len(list(load_batches(dataset, spec(), first=7, stop=9))) == 2
    assert list(load_batches(dataset, spec(), first=9, stop=9)) == []
    assert list(load_batches(dataset, spec(), first=10, stop=9, memory="disk")) == []


def test_a_batch_stays_as_it_is_when_others_are_read(dataset: Dataset) -> None:
    batches = load_batches(dataset, spec(), memory="disk")
    first = next(batches)
    kept = Batch(*(tensor.clone() for tensor in first))
    taken(batches, 500)
    assert equal([first], [kept])


def test_torch_reads_the_patches_without_the_front_door(dataset: Dataset) -> None:
    patches = PatchDataset(dataset, spec())
    order = list(islice(ShardSampler(patches.chunks, spec()), 3))
    found = DataLoader(patches, batch_sampler=order)
    wanted = [patches.read_batch(indices) for indices in order]
    assert equal((Batch(*batch) for batch in found), wanted)
    assert sum(1 for _ in islice(iter(patches), 5)) == 5


def readers() -> set[int | None]:
    """Return the processes that were started here, without the session's Dask workers."""
    found = multiprocessing.active_children()
    return {process.pid for process in found if not process.name.startswith("Dask")}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail where a test leaves a process or a thread behind."""
    before = set(threading.enumerate())
    yield
    assert readers() == set()
    # The threads that fed a queue are told to end, and nobody waits for them.
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_no_batch_and_stay_through_epochs(
    dataset: Dataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dataset.loader._FETCH_PATCHES", 3 * BATCH)
    undisturbed = taken(load_batches(dataset, spec(drop_last=False), memory="ram"), 250)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with load_batches(
        dataset, spec(drop_last=False), memory="disk", workers=workers, first=3, stop=250
    ) as batches:
        begun = taken(batches, 5)
        processes = readers()
        assert len(processes) == workers
        begun += taken(batches, 240)
        assert readers() == processes
        assert batches.state_dict()["epoch"] == 248 // len(batches.sampler) > 1
        assert equal([*begun, *batches], undisturbed[3:])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_what_a_worker_cannot_read_is_told_in_one_line_here(own: Dataset) -> None:
    shard = own.path / "hr/c.1.0.0.0"
    batches = load_batches(own, spec(window_chunks=CHUNKS), memory="disk", workers=1)
    shard.rename(own.path / "away")
    with pytest.raises(DatasetError, match=str(shard)) as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert readers() == set()
    (own.path / "away").rename(shard)
    assert batches.state_dict() == {"epoch": 0, "step": 0}
    next(batches)
    for process in multiprocessing.active_children():
        if process.pid not in readers():
            continue
        os.kill(process.pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerError, match="died"):
        taken(batches, 10_000)
    batches.close()


def test_too_little_shared_memory_is_told(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to write to file: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(UsageError, match=r"need \d+ MiB of shared memory .* use fewer workers"):
        next(load_batches(dataset, spec(), memory="disk", workers=9))
    next(load_batches(dataset, spec(), memory="disk"))


def test_a_missing_or_flipped_shard_is_named(own: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.dataset.loader._FETCH_PATCHES", 1)
    batches = load_batches(own, spec(window_chunks=CHUNKS), memory="disk")
    next(batches)
    shard = own.path / "hr/c.2.0.0.0"
    content = bytearray(shard.read_bytes())
    content[200:20_000] = bytes(255 - byte for byte in content[200:20_000])
    shard.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DatasetError, match=str(shard)) as caught:
            taken(batches, 500)
        assert "\n" not in str(caught.value)
        shard.unlink(missing_ok=True)
    with pytest.raises(DatasetError, match=str(shard)):
        load_batches(own, spec())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": ("invers",)}, "did you mean inverse"),
        ({"split": "trian"}, "did you mean train"),
        ({"split": "test"}, "no patch of the split 'test', expected at least 1"),
    ],
)
def test_what_a_dataset_lacks_is_told(dataset: Dataset, changes: Any, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        load_batches(dataset, spec(**changes))


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({"batch_size": 5000}, {}, "patches, expected 5000 for one batch"),
        ({}, {"rank": 2, "world_size": 2}, "rank is 2 of 2, expected 0 to 1"),
        ({"drop_last": False}, {"world_size": 2}, "drop_last is False for 2 processes"),
        ({}, {"memory": "rom"}, "did you mean ram"),
        ({}, {"memory": "gpu"}, "device 'cpu', expected cuda"),
    ],
)
def test_options_that_contradict_are_told(
    dataset: Dataset, changes: Any, options: Any, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        load_batches(dataset, spec(**changes), **options)


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"window_chunks": 0}, {"seed": -1}])
def test_a_spec_refuses_what_cannot_be(changes: Any) -> None:
    with pytest.raises(UsageError, match="expected 1, 1 and 0 or more"):
        spec(**changes)


def test_a_negative_index_is_refused(dataset: Dataset) -> None:
    with pytest.raises(IndexError, match="index is -1"):
        PatchDataset(dataset, spec())[-1]


def test_memory_is_used_where_the_split_fits(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("pipeline.dataset.loader._CONTAINER_LIMIT", limit)
    kinds = {}
    needed = PatchDataset(dataset, spec()).nbytes
    for content in (None, "max\n", f"{4 * needed}\n", f"{4 * needed - 1}\n"):
        if content is not None:
            limit.write_text(content)
        kinds[content] = type(load_batches(dataset, spec()).source)
    assert list(kinds.values()) == [ResidentPatches] * 3 + [PatchDataset]
    assert needed == len(PatchDataset(dataset, spec())) * 3 * (SIDE**2 + 2 * (SIDE // 2) ** 2)
