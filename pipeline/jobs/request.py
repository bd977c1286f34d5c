"""What is asked for, as values: the one way in for the command line, flows, tests and benchmarks.

A request holds every option of its command under the name that the command line and the flow use,
with its default and its help text (`pipeline.request_fields`), and refuses what cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compute.request import LimitedWorkersRequest, WorkersRequest
from pipeline.constants import (
    CODECS,
    DEFAULT_MODEL,
    DEFAULT_TILE_PX,
    KEEP_ALL,
    KEEP_EXPORT,
    KEEPS,
    LEAST_TILE_PX,
    MOST_TILE_PX,
)
from pipeline.errors import UsageError
from pipeline.jobs.export.names import SAME
from pipeline.jobs.export.request import ExportRequest
from pipeline.request_fields import needed, optional, same_as
from pipeline.sources.request import SourceRequest
from pipeline.storage.store import BucketPlace, Place, check_stores

if TYPE_CHECKING:
    from pipeline.jobs.budget import Budget
    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.jobs.upscaling import Upscaling


@dataclass(frozen=True, kw_only=True)
class IngestRequest(SourceRequest, WorkersRequest):
    """Pictures to bring into an archive."""

    archive: Place = needed("Archive, which is created or continued.")  # noqa: RUF009 - it is a field.
    ledger: str | None = optional(None, "Database of the ledger.  [default: SQLite beside ARCHIVE]")
    codec: str | None = optional(
        None,
        "Lossless compression of pictures that are stored from now on; jpegxl takes half the "
        "space, zstd is faster to read and more programs know it. The input of a JPEG is stored "
        "as the file itself, unless zstd is named.  [default: as before; zstd at first]",
    )

    def check(self) -> None:
        """Refuse to make the archive of what is in it, or where no ledger can be.

        Raises:
            UsageError: then.
            StoreError: if archive or pictures are in a bucket that cannot be used.
        """
        from pipeline.sources.overlap import check_not_own_source
        from pipeline.storage.ledger.messages import not_in_bucket

        check_codec(self.codec)
        check_stores(self.archive, self.src)
        if isinstance(self.archive, BucketPlace) and not self.ledger:
            raise not_in_bucket(self.archive)
        check_not_own_source(self.archive, src=self.src, what="archive")


@dataclass(frozen=True, kw_only=True)
class UpscaleRequest(LimitedWorkersRequest):
    """Everything asked of the main job: ingest, upscale, score, export."""

    src: str = same_as(SourceRequest, "src")
    job_dir: Place = needed(  # noqa: RUF009 - it is a field.
        "Folder of the job, or s3://BUCKET/PREFIX, which is created or continued."
    )
    model: str = optional(
        DEFAULT_MODEL,
        "Name of a network or interpolation (`upres models` lists them), or a checkpoint file; "
        "auto chooses for each picture a network that restores, or one that does not.",
    )
    restore: float | None = optional(
        None,
        "How strongly to restore, from 0 (the weights of NAME) to 1 (those of NAME-archive); with "
        "auto, it is for the pictures that are restored.",
    )
    names: str | None = same_as(SourceRequest, "names")
    tile_px: int = optional(DEFAULT_TILE_PX, "Side of a tile, in LR pixels.")
    halo: str | int = optional(
        "auto",
        "Margin read around each tile, in LR pixels; auto is the model's reach: no seams.",
    )
    device: str = optional("auto", "Where the network runs.")
    backend: str = optional(
        "auto",
        "Library that computes the network; auto is openvino on x86 CPUs where it is installed, "
        "as it is faster there, and torch elsewhere.",
    )
    precision: str = optional(
        "auto", "Arithmetic of the network; auto is bf16 where the hardware supports it."
    )
    instructions: str = optional(
        "auto",
        "CPU instructions that all workers use, such as avx2; auto keeps those of the job, or "
        "takes for a new job the most that all workers have.",
    )
    reference: str | None = optional(
        None, "Originals to score against: a folder, glob, s3://BUCKET/PREFIX, .zip or .tar."
    )
    export_dir: Place | None = optional(  # noqa: RUF009 - it is a field.
        None, "Write the finished pictures as files below DIR, or below s3://BUCKET/PREFIX."
    )
    file_format: str = same_as(ExportRequest, "format")
    overwrite: bool = same_as(ExportRequest, "overwrite")
    prune: bool = same_as(ExportRequest, "prune")
    keep: str = optional(
        KEEP_ALL,
        "What remains in JOB of a finished and scored picture: all of it; sr, without the copy of "
        "the input; or export, nothing but a preview once its file is exported.",
    )
    codec: str | None = same_as(IngestRequest, "codec")
    ledger: str | None = optional(
        None, "Database of the ledger; needed for a job in a bucket.  [default: SQLite in JOB]"
    )
    until: str = optional(
        "",
        "Stop between tiles at this time of the day, such as 06:30; repeat the command to go on. "
        "What is finished is still scored and exported, for at most 15 minutes more.",
    )
    budget: str = optional(
        "",
        "Stop in the same way after this time, such as 5h or 90m; with --until, whichever comes "
        "first.",
    )
    timezone: str = optional(
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
    def scores(self) -> bool:
        """Return whether tiles are scored: as asked for, and before their pixels are let go."""
        return self.reference is not None or self.keep != KEEP_ALL

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
            StoreError: if anything is in a bucket that cannot be used.
        """
        from pipeline.compute.instructions import check_level
        from pipeline.sources.listing import check_source
        from pipeline.sources.overlap import check_not_own_pictures

        check_stores(self.src, self.job_dir, self.reference, self.export_dir)
        self._check_export()
        self._check_time()
        # What `auto` means is found where it computes: it takes torch, and cannot be wrong.
        self.cluster_settings(device=None if self.device == "auto" else self.device)
        check_tile(self.tile_px)
        check_codec(self.codec)
        self._check_keep()
        check_halo(self.halo)
        check_level(self.instructions)
        self.check_limit()
        check_source(self.src, names=self.names or "")
        check_not_own_pictures(self.job_dir, src=self.src)
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

    def _check_keep(self) -> None:
        if self.keep not in KEEPS:
            raise UsageError(f"keep is {self.keep!r}, expected {', '.join(KEEPS)}")
        if self.keep == KEEP_EXPORT and self.export_dir is None:
            raise UsageError("--keep export goes with --export DIR; add that")

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
        from pipeline.jobs.spec import make_spec
        from pipeline.jobs.upscaling import Upscaling

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

    job_dir: Place = needed("Folder of the job, or s3://BUCKET/PREFIX.")  # noqa: RUF009 - it is a field.
    item: str = optional("*", "Only items whose id matches.")
    error: str = optional("", "Only failures whose error contains TEXT.")
    stale: bool = optional(
        False, "Also recompute tiles that were made with another model or other settings."
    )
    model: str | None = optional(
        None, "With --stale: the model to upscale with.  [default: as before]"
    )
    backend: str | None = optional(
        None,
        "Library that computes the network; a change needs --stale.  [default: as before]",
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

    job_dir: Place = needed("Folder of the job, or s3://BUCKET/PREFIX.")  # noqa: RUF009 - it is a field.
    reference: str | None = same_as(UpscaleRequest, "reference")
    names: str | None = same_as(SourceRequest, "names")


def check_tile(tile_px: int) -> None:
    """Refuse tiles of a side that is too small or too large.

    Raises:
        UsageError: then.
    """
    if not LEAST_TILE_PX <= tile_px <= MOST_TILE_PX:
        raise UsageError(f"tile is {tile_px} px, expected {LEAST_TILE_PX} to {MOST_TILE_PX} px")


def check_codec(codec: str | None) -> None:
    """Refuse a compression that does not exist.

    Raises:
        UsageError: then.
    """
    if codec not in (None, *CODECS):
        raise UsageError(f"codec is {codec!r}, expected {' or '.join(CODECS)}")


def check_halo(halo: str | int) -> None:
    """Refuse a halo that is neither ``auto`` nor a number of pixels.

    Raises:
        UsageError: then.
    """
    if halo != "auto" and not str(halo).isdecimal():
        raise UsageError(f"halo is {halo!r}, expected auto or a number of pixels")
