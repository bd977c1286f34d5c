"""Upscale: submits the units of a plan to the workers, and records their outcomes.

The driver's side; which units these are is in `plan`, what a worker does with one in `worker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from pipeline.compute.driver import work_through
from pipeline.compute.inference import kind_of_device
from pipeline.compute.metrics import count_units, timed
from pipeline.compute.outcomes import Failure, record_outcomes
from pipeline.compute.silence import Silence
from pipeline.compute.submission import EVERY_WORKER, gpu_resources
from pipeline.compute.worker import on_every_worker
from pipeline.constants import DEFAULT_LIMIT_S
from pipeline.errors import ArchiveError
from pipeline.jobs.choice import Way
from pipeline.jobs.item_images import sr_image
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.orphans import drop_orphans
from pipeline.jobs.upscale.plan import Plan, plan_job
from pipeline.jobs.upscale.units import UnitKeys, failed_units
from pipeline.jobs.upscale.worker import ModelAddress, batch_px, open_workbench, upscale_units
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import DONE, FAILED, SR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop
    from pipeline.jobs.choice import Choice
    from pipeline.jobs.job import Job
    from pipeline.jobs.upscale.units import UnitPlan, UnitTask
    from pipeline.storage.ledger import Ledger, SealRow, UnitRow

_DECLARED_AT_ONCE = 2_000
_SEALED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class UpscaleProgress:
    """Where a run is; `megapixels` of SR were written so far."""

    units_done: int
    units_failed: int
    units_planned: int
    megapixels: float
    failures: tuple[Failure, ...] = ()
    """Of the units that were reported last."""


@timed("upscale")
def run_upscale(
    job: Job,
    plans: Plan | Sequence[UnitPlan],
    *,
    spec: UpscaleSpec,
    model: ModelAddress,
    choice: Choice | None = None,
    ledger: Ledger,
    client: Client | None,
    run: str,
    limit_s: float = DEFAULT_LIMIT_S,
    stop: Stop | None = None,
    report: Callable[[UpscaleProgress], None] = lambda _: None,
) -> int:
    """Compute every unit of `plans`; return how many were computed.

    Whatever fails is recorded with its reason and does not stop the others. `client` may be None
    where no unit is to be computed.
    """
    sr = job.open_sr()
    planned = _declare(plans, ledger, sr)
    drop_orphans(job, sr, ledger)
    report(UpscaleProgress(0, 0, planned, 0.0))
    if client is None or not planned:
        return 0
    ways = [Way(spec, model), *([choice.restoring] if choice and choice.restoring else [])]
    # One network after the other, so that no worker swaps between two.
    worked = chain.from_iterable(
        _worked(plans, job, way=way, ledger=ledger, client=client, limit_s=limit_s, stop=stop)
        for way in ways
    )
    return _record(
        worked,
        ledger,
        spec=spec,
        client=client,
        run=run,
        planned=planned,
        report=report,
        silence=Silence(job.folder),
    )


def _worked(
    plans: Plan | Sequence[UnitPlan],
    job: Job,
    *,
    way: Way,
    ledger: Ledger,
    client: Client,
    limit_s: float,
    stop: Stop | None,
) -> Iterator[tuple[UnitTask, list[UnitRow]]]:
    """Yield the tasks that one network computes, with the outcomes of their units."""
    if stop is not None and stop.requested:
        return
    own = (plan for plan in plans if plan.spec == way.spec)
    first = next(own, None)
    if first is None:
        return
    key = way.spec.fingerprint()
    on_gpus = kind_of_device(way.model.device).startswith("cuda")
    resources = gpu_resources(client) if on_gpus else EVERY_WORKER
    workbench = partial(open_workbench, way.model, way.spec)
    on_every_worker(client, key, workbench, resources=resources)
    tasks = _tasks(
        chain([first], own),
        job,
        spec=way.spec,
        ledger=ledger,
        client=client,
        limit_s=limit_s,
        together_px=batch_px(kind_of_device(way.model.device)),
    )
    work = partial(upscale_units, key=key)
    yield from work_through(client, work, tasks, stop=stop, resources=resources)


def adopt_shards(
    job: Job, *, spec: UpscaleSpec, ledger: Ledger, choice: Choice | None = None
) -> int:
    """Record as done every shard that the SR archive holds under `spec`; return how many.

    This is for a job whose ledger was lost. Each shard is read back, so that a damaged one is
    computed again.
    """
    sr = Archive.open_or_create(job.sr_dir)
    adopted = 0
    for plan in plan_job(job, spec=spec, ledger=ledger, choice=choice):
        if not plan.fresh:
            units = plan.whole_units(sr)
            ledger.put_items(plan.rows)
            ledger.put_units(units)
            adopted += len(units)
    return adopted


def mark_damaged(job: Job, item: str, ledger: Ledger) -> int:
    """Record as failed every done tile of `item` that cannot be read back; return how many."""
    (row,) = ledger.items_named([item])
    error = ArchiveError(f"{item}: the shard is damaged or missing; rerun computes it again")
    done = sorted(ledger.tiles_of(row, DONE))
    try:
        image = sr_image(job.open_sr(), row)
        grid = UpscaleSpec.from_json(image.provenance["spec"]).grid(row.height, row.width)
        scale = image.size[0] // row.height
        damaged = [t for t in done if not image.is_whole(grid.core(t).scaled(scale))]
    except ArchiveError:
        damaged = done
    ledger.put_units(failed_units(UnitKeys.of_tiles(row, damaged), error))
    return len(damaged)


def _declare(plans: Iterable[UnitPlan], ledger: Ledger, sr: Archive) -> int:
    """Make the ledger agree with the plan: units whose pixels will be replaced lose their outcome.

    This comes before any pixel is deleted: a kill in between leaves units pending, never done
    without pixels. Return how many units there are.
    """
    planned = 0
    waiting = iter(plans)
    while batch := list(islice(waiting, _DECLARED_AT_ONCE)):
        ledger.forget_units(dict.fromkeys(plan.name for plan in batch if plan.fresh))
        for plan in batch:
            if plan.outdated:
                ledger.forget_numbers(plan.name, plan.outdated)
        made = [row.item for plan in batch if plan.numbers for row in plan.rows]
        ledger.forget_let_go(SR, made)  # There will be pixels again.
        ledger.put_items(row for plan in batch for row in plan.rows)
        for plan in batch:
            plan.keep(sr, ledger)
        planned += sum(len(plan.numbers) for plan in batch)
    return planned


def _tasks(
    plans: Iterable[UnitPlan],
    job: Job,
    *,
    spec: UpscaleSpec,
    ledger: Ledger,
    client: Client,
    limit_s: float,
    together_px: int,
) -> Iterator[UnitTask]:
    """Yield the tasks of all plans, few pixels or few units in each.

    SR arrays are created just before their first unit, so that a large job starts at once.
    """
    sr, source = job.open_sr(), job.open_source()
    seals: list[SealRow] = []
    for plan in plans:
        try:
            plan.create_target(sr, source, spec)
            seals += plan.seals(sr)
        except (ArchiveError, OSError) as error:
            # One item that cannot be created must not stop the others.
            ledger.put_units(failed_units(plan, error))
            count_units(client, failed=len(plan.numbers))
            continue
        yield from plan.tasks(job, spec, limit_s=limit_s, together_px=together_px)
        if len(seals) >= _SEALED_AT_ONCE:
            ledger.put_seals(seals)
            seals = []
    ledger.put_seals(seals)


def _record(
    worked: Iterable[tuple[UnitTask, list[UnitRow]]],
    ledger: Ledger,
    *,
    spec: UpscaleSpec,
    client: Client,
    run: str,
    planned: int,
    report: Callable[[UpscaleProgress], None],
    silence: Silence,
) -> int:
    """Write outcomes to the ledger, and count them there; return how many units were done."""
    total = _Sums()

    def count(recorded: list[tuple[UnitTask, list[UnitRow]]]) -> None:
        sums = _Sums.of(recorded, spec.scale)
        count_units(client, done=sums.done, failed=sums.failed, pixels=sums.pixels)

    for one in record_outcomes(worked, ledger, run=run, recorded=count):
        total += _Sums.of([one], spec.scale)
        failures = tuple(Failure.of_unit(row) for row in one[1] if row.state == FAILED)
        report(UpscaleProgress(total.done, total.failed, planned, total.pixels / 1e6, failures))
        silence.hear(row.error for row in one[1])
    return total.done


@dataclass(frozen=True, slots=True)
class _Sums:
    """How many units were done and failed, and how many SR pixels the done ones have."""

    done: int = 0
    failed: int = 0
    pixels: int = 0

    @classmethod
    def of(cls, worked: Iterable[tuple[UnitTask, list[UnitRow]]], scale: int) -> _Sums:
        """Return the sums over some tasks."""
        outcomes = [(task, row) for task, rows in worked for row in rows]
        pixels = [task.pixels(row.number) for task, row in outcomes if row.state == DONE]
        failed = sum(row.state == FAILED for _, row in outcomes)
        return cls(len(pixels), failed, sum(pixels) * scale**2)

    def __add__(self, other: _Sums) -> _Sums:
        """Return the sums over both."""
        return _Sums(self.done + other.done, self.failed + other.failed, self.pixels + other.pixels)
