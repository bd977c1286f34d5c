"""What is asked for, as values: the one way in for the command line, flows, tests and benchmarks.

A request holds every option of its command under the name that the command line and the flow use,
with its default and its help text, and refuses what cannot be. The command line reads both to print
its help, so this module imports nothing heavy: what a check needs is imported by the check.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.constants import (
    DEFAULT_LIMIT_S,
    DEFAULT_MODEL,
    DEFAULT_TILE_PX,
    LEAST_TILE_PX,
    MOST_TILE_PX,
)
from pipeline.errors import UsageError
from pipeline.jobs.export_names import CHOICES, SAME

if TYPE_CHECKING:
    from pipeline.compute.cluster import ClusterSettings
    from pipeline.jobs.budget import Budget
    from pipeline.jobs.run import Upscaling
    from pipeline.jobs.spec import UpscaleSpec


def _asked(default: Any, help_text: str) -> Any:
    """Return a field of a request: its default, and what the command line says of it."""
    return field(default=default, metadata={"help": help_text})


def _needed(help_text: str) -> Any:
    """Return a field of a request that has no default, and what is said of it."""
    return field(metadata={"help": help_text})


def help_of(request: type[Any], name: str) -> str:
    """Return the help text of a field of a request."""
    return str(next(f for f in fields(request) if f.name == name).metadata["help"])


@dataclass(frozen=True, kw_only=True)
class WorkersRequest:
    """Where the work runs."""

    cluster: str = _asked(
        "local", "Where to run: workers on this machine, or the address of a Dask scheduler."
    )
    workers: int | None = _asked(
        None, "Worker processes of a local cluster.  [default: one per core, at most 8]"
    )

    def cluster_settings(self, *, device: str | None = None) -> ClusterSettings:
        """Return the workers asked for; a network on `device` gets one for each of its GPUs.

        Raises:
            UsageError: if the options contradict each other, or there is no such device.
        """
        from pipeline.compute.cluster import ClusterSettings
        from pipeline.compute.inference import gpus_of

        gpus = 0 if device is None else gpus_of(device)
        # prefect.yaml gives an empty text where UPRES_CLUSTER is not set.
        address = self.cluster or WorkersRequest.cluster
        return ClusterSettings(address=address, workers=self.workers, gpus=gpus)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is to be exported where, and what may be replaced or removed for it."""

    out_dir: Path
    format: str = SAME
    overwrite: bool = _asked(
        False, "Replace files that are in the way of an export and that this job did not write."
    )
    prune: bool = _asked(
        False,
        "Remove exported files whose pictures are gone from the source, unless somebody changed "
        "them.",
    )

    def check(self) -> None:
        """Refuse a format that does not exist.

        Raises:
            UsageError: then.
        """
        if self.format not in CHOICES:
            raise UsageError(f"format is {self.format!r}, expected {', '.join(CHOICES)}")

    @property
    def root(self) -> Path:
        """Return the folder by the one name that the ledger knows it by."""
        return Path(os.path.realpath(self.out_dir))


@dataclass(frozen=True, kw_only=True)
class IngestRequest(WorkersRequest):
    """Pictures to bring into an archive."""

    src: str
    archive: Path
    names: str | None = None

    def check(self) -> None:
        """Refuse to make the archive of what is in it.

        Raises:
            UsageError: then.
        """
        from pipeline.sources.overlap import check_not_own_source

        check_not_own_source(self.archive, src=self.src, what="archive")


@dataclass(frozen=True, kw_only=True)
class UpscaleRequest(WorkersRequest):
    """Everything asked of the main job: ingest, upscale, score, export."""

    src: str = _needed("Pictures: a file, folder, glob, .zip, .tar, or an archive of upres.")
    job_dir: Path = _needed(  # noqa: RUF009 - it is a field.
        "Folder of the job, which is created or continued."
    )
    model: str = _asked(
        DEFAULT_MODEL,
        "Network or interpolation, by its name (`upres models` lists all) or its checkpoint file; "
        "auto chooses for each picture whether it is to be restored.",
    )
    restore: float | None = _asked(
        None,
        "Strength from 0 to 1 of a model that has a pair: the weights between that and its "
        "NAME-archive; with auto, the strength for pictures that are restored.",
    )
    names: str | None = _asked(
        None, "Encoding of file names in a .zip or .tar that does not say it, such as cp932."
    )
    tile_px: int = _asked(DEFAULT_TILE_PX, "LR pixels of a tile's side.")
    halo: str | int = _asked(
        "auto", "LR pixels read around a tile; auto is the model's reach, so no seams."
    )
    device: str = _asked("auto", "Where the network runs.")
    backend: str = _asked(
        "auto",
        "What computes the network; auto is openvino, which is faster, where it is installed and "
        "the device is an x86 CPU.",
    )
    precision: str = _asked(
        "auto", "Arithmetic of the network; auto is bf16 where the hardware has it."
    )
    limit_s: float = _asked(
        DEFAULT_LIMIT_S,
        "Seconds that one tile, or chunk of patches, may take before it counts as hanging.",
    )
    reference: str | None = _asked(
        None, "Originals to score against: a folder, glob, .zip or .tar."
    )
    export_dir: Path | None = _asked(  # noqa: RUF009 - it is a field.
        None, "Write the finished pictures as files below DIR."
    )
    file_format: str = _asked(
        ExportRequest.format, "File format of the exported pictures; same is that of the source."
    )
    overwrite: bool = ExportRequest.overwrite
    prune: bool = ExportRequest.prune
    ledger: str | None = _asked(None, "Database of the ledger.  [default: SQLite in JOB]")
    until: str = _asked(
        "",
        "Stop between tiles at this time of the day, such as 06:30; repeat the command to go on. "
        "What is finished is still scored and exported, for at most 15 minutes more.",
    )
    budget: str = _asked(
        "", "Stop likewise after so long, such as 5h or 90m; with --until, at what comes first."
    )
    timezone: str = _asked(
        "", "Time zone of --until, such as Europe/Berlin.  [default: that of this machine]"
    )

    @property
    def time_budget(self) -> Budget:
        """Return how long the run may go on.

        Raises:
            UsageError: if that is not a time, a duration, or a time zone.
        """
        from pipeline.jobs.budget import Budget

        return Budget(until=self.until, budget=self.budget, timezone=self.timezone)

    @property
    def export(self) -> ExportRequest | None:
        """Return what is to be exported, None where nothing is."""
        if self.export_dir is None:
            return None
        return ExportRequest(
            out_dir=self.export_dir,
            format=self.file_format,
            overwrite=self.overwrite,
            prune=self.prune,
        )

    def check(self) -> None:
        """Refuse what cannot be, before anything is made or computed.

        Raises:
            UsageError: if options contradict each other or are out of range, or the export would
                be read by this run or the next one.
            NoSourceError: if there is nothing at the source or at the reference.
        """
        from pipeline.compute.deadline import check_limit
        from pipeline.sources.listing import check_source

        self._check_export()
        self._check_time()
        self.cluster_settings(device=self.device)
        check_tile(self.tile_px)
        check_halo(self.halo)
        check_limit(self.limit_s)
        check_source(self.src, names=self.names or "")
        if self.reference is not None:
            check_source(self.reference)

    def _check_export(self) -> None:
        from pipeline.sources.overlap import check_export_folder

        export = self.export
        if export is not None:
            export.check()
            check_export_folder(
                export.out_dir, src=self.src, job_dir=self.job_dir, reference=self.reference
            )
        elif self.file_format != SAME:
            raise UsageError(f"--format {self.file_format} goes with --export DIR; add that")
        elif self.overwrite or self.prune:
            option = "--overwrite" if self.overwrite else "--prune"
            raise UsageError(f"{option} goes with --export DIR; add that")

    def _check_time(self) -> None:
        budget = self.time_budget
        if self.timezone and not budget.until:
            raise UsageError(f"--timezone {self.timezone} goes with --until TIME; add that")

    def upscaling(self) -> Upscaling:
        """Return how the pictures are upscaled; the model is loaded for it.

        Raises:
            ModelError: if the model is unknown or damaged, or needs a halo that is given.
            UsageError: if tile, halo, precision, backend or device cannot be.
        """
        from pipeline.jobs.choice import choose, with_strength
        from pipeline.jobs.run import Upscaling
        from pipeline.jobs.spec import make_spec

        halo = self.halo if self.halo == "auto" else int(self.halo)

        def make(model: str) -> UpscaleSpec:
            return make_spec(
                model,
                tile_px=self.tile_px,
                halo=halo,
                precision=self.precision,
                device=self.device,
                backend=self.backend,
            )

        name = with_strength(self.model, self.restore)
        way, choice = choose(name, device=self.device, make=make)
        return Upscaling(
            spec=way.spec,
            model=way.model,
            choice=choice,
            limit_s=self.limit_s,
            halo=halo,
            backend=self.backend,
        )


@dataclass(frozen=True, kw_only=True)
class RerunRequest(WorkersRequest):
    """Which units of a job to compute again: those that failed, narrowed by `item` and `error`."""

    job_dir: Path = _needed("Folder of the job.")  # noqa: RUF009 - it is a field.
    item: str = _asked("*", "Only items whose id matches.")
    error: str = _asked("", "Only failures that contain TEXT.")
    stale: bool = _asked(False, "Also all units whose pixels are of another model or spec.")
    model: str | None = _asked(None, "With --stale: upscale with this.  [default: as before]")
    backend: str | None = _asked(
        None,
        "What computes the network; another than before needs --stale.  [default: as before]",
    )

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: then.
        """
        if self.model is not None and not self.stale:
            raise UsageError(f"--model {self.model} makes tiles stale; add --stale to redo them")
        self.cluster_settings()


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(WorkersRequest):
    """A job to score: against originals (`reference`), or else against its own LR input."""

    job_dir: Path = _needed("Folder of the job.")  # noqa: RUF009 - it is a field.
    reference: str | None = UpscaleRequest.reference
    names: str | None = UpscaleRequest.names


def check_tile(tile_px: int) -> None:
    """Refuse tiles of a side that is too small or too large.

    Raises:
        UsageError: then.
    """
    if not LEAST_TILE_PX <= tile_px <= MOST_TILE_PX:
        raise UsageError(f"tile is {tile_px} px, expected {LEAST_TILE_PX} to {MOST_TILE_PX} px")


def check_halo(halo: str | int) -> None:
    """Refuse a halo that is neither ``auto`` nor a number of pixels.

    Raises:
        UsageError: then.
    """
    if halo != "auto" and not str(halo).isdecimal():
        raise UsageError(f"halo is {halo!r}, expected auto or a number of pixels")
