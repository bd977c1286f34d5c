"""Which CPU instructions compute a job: one set that all its workers have, and it stays that.

A job that continues keeps the set that its finished tiles were computed with; workers whose CPUs do
not have it are refused. Only when all its tiles are new anyway is a set chosen.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from models.registry import is_interpolation
from pipeline.compute.agreement import hold_workers, installations, listed, shared_level
from pipeline.compute.backends import OPENVINO
from pipeline.compute.inference import kind_of_device, resolve_precision
from pipeline.compute.instructions import LEVELS, has_level
from pipeline.errors import ArchiveError, ClusterError, LedgerError, UsageError
from pipeline.jobs.choice import Choice
from pipeline.jobs.spec import UpscaleSpec, computed_with
from pipeline.storage.archive_group import is_archive

if TYPE_CHECKING:
    from pipeline.compute.cluster import Client
    from pipeline.compute.workers import Workers
    from pipeline.jobs.run import Run
    from pipeline.jobs.upscaling import Upscaling

AUTO = "auto"


def settled(
    upscaling: Upscaling, *, run: Run, workers: Workers, instructions: str, precision: str
) -> Upscaling:
    """Return `upscaling` with the instructions that its workers are held to from now on.

    `instructions` and `precision` are as they were asked for. Where both are ``auto``, they follow
    the finished tiles of the job, or else what all workers have. Only then are these needed now:
    otherwise they are checked once they are.

    Raises:
        ClusterError: if a worker does not have what is asked for, or what the job is computed with.
    """
    if not _matters(upscaling):
        return upscaling
    before = None
    if instructions == AUTO:
        before = _continued(
            upscaling.spec, _finished(run, upscaling.spec), any_precision=precision == AUTO
        )
    if before is not None:
        workers.when_connected(partial(_hold_as_before, before))
        return _with(upscaling, before.instructions, precision=before.precision)
    level = shared_level(workers.client) if instructions == AUTO else instructions
    wanted = upscaling.spec.precision
    if precision == AUTO:
        wanted = resolve_precision(AUTO, device="cpu", level=level)
    _check_computable(upscaling, level, wanted)
    advice = "leave them out, or give --instructions auto"
    workers.when_connected(partial(_hold, level, advice=advice))
    return _with(upscaling, level, precision=wanted)


def hold_as_before(upscaling: Upscaling, client: Client) -> None:
    """Hold the workers to the instructions that a job was computed with.

    Raises:
        ClusterError: if one does not have them.
    """
    if _matters(upscaling):
        own = replace(upscaling.spec, instructions=upscaling.instructions)
        _hold_as_before(own, client)


def _matters(upscaling: Upscaling) -> bool:
    on_cpu = kind_of_device(upscaling.model.device) == "cpu"
    return on_cpu and not is_interpolation(upscaling.spec.model)


def _check_computable(upscaling: Upscaling, level: str, precision: str) -> None:
    """Refuse what OpenVINO ends its process with: bf16 on a CPU without AVX-512.

    Raises:
        UsageError: then.
    """
    by_openvino = upscaling.spec.backend == OPENVINO and precision == "bf16"
    if by_openvino and level in LEVELS and not has_level(level, "avx512_core"):
        raise UsageError(
            f"openvino does not compute bf16 with the instructions {level}, expected avx512_core "
            "or more; give --precision fp32, or --backend torch"
        )


def _with(upscaling: Upscaling, level: str, *, precision: str) -> Upscaling:
    """Return the same with instructions and precision for each of its networks."""
    device, choice = upscaling.model.device, upscaling.choice

    def given(spec: UpscaleSpec) -> UpscaleSpec:
        return computed_with(replace(spec, precision=precision), level, device=device)

    if choice is not None and choice.restoring is not None:
        way = replace(choice.restoring, spec=given(choice.restoring.spec))
        choice = replace(choice, restoring=way)
    return replace(upscaling, spec=given(upscaling.spec), choice=choice)


def _continued(
    spec: UpscaleSpec, finished: list[UpscaleSpec], *, any_precision: bool
) -> UpscaleSpec | None:
    """Return the spec of finished tiles that `spec` would continue, None where they are stale."""
    for before in finished:
        same = replace(spec, instructions=before.instructions)
        if any_precision:
            same = replace(same, precision=before.precision)
        if same == before:
            return before
    return None


def _finished(run: Run, spec: UpscaleSpec) -> list[UpscaleSpec]:
    """Return the specs of the job's tiles by its ledger; by its archive where that was lost.

    Of the archive one picture is looked at. Those of stacks have tiles as large as they are, so the
    size is taken to be that of `spec`.
    """
    try:
        last = run.ledger.upscaling()
        if last is not None:
            choice = Choice.from_json(last["choice"]) if "choice" in last else None
            restoring = choice.restoring if choice is not None else None
            specs = [UpscaleSpec.from_json(last["spec"])]
            return specs + ([restoring.spec] if restoring is not None else [])
        if is_archive(run.job.sr_dir):
            sr = run.job.open_sr()
            for _, image in sr.survey():
                if not isinstance(image, ArchiveError) and "spec" in image.provenance:
                    before = UpscaleSpec.from_json(image.provenance["spec"])
                    return [replace(before, tile_px=spec.tile_px)]
    except LedgerError:
        pass  # Of an upres whose tiles are stale now.
    return []


def _hold_as_before(before: UpscaleSpec, client: Client) -> None:
    """Hold the workers to the instructions of finished tiles.

    Tiles of an upres that did not keep them yet are of the machines that go on with them.
    """
    if before.instructions:
        advice = (
            "the job's finished tiles are computed with them; leave these workers out, or compute "
            "the whole job again with --instructions LEVEL"
        )
        _hold(before.instructions, client, advice=advice)
        return
    levels = {one.level for one in installations(client)}
    if len(levels) > 1:
        raise ClusterError(
            f"workers have the instructions {', '.join(sorted(levels))}, and the job does not say "
            "which its finished tiles are computed with; use workers of one kind, or compute the "
            "whole job again with --instructions LEVEL"
        )
    hold_workers(client, levels.pop())


def _hold(level: str, client: Client, *, advice: str) -> None:
    """Hold the workers to `level`.

    Raises:
        ClusterError: with `advice`, if some do not have it, or have computed with another.
    """
    workers = installations(client)
    lacking = [one for one in workers if not has_level(one.level, level)]
    if lacking:
        has = ", ".join(sorted({one.level for one in lacking}))
        raise ClusterError(
            f"{listed(one.host for one in lacking)} has the instructions {has}, expected {level}: "
            f"{advice}"
        )
    others = {one.host: one.held for one in workers if one.held not in ("", level)}
    if others:
        raise ClusterError(
            f"workers on {listed(others)} have computed with {', '.join(set(others.values()))}, "
            f"expected {level}: {advice}, or start these workers again"
        )
    hold_workers(client, level)
