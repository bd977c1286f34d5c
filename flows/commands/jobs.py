"""Jobs on the command line: ingest, upscale, status, rerun, score, report, export."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.terminal import options
from flows.terminal.failures import SHOWN, failure_lines
from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compute.cluster import Client, ClusterSettings, Stop
    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.export import ExportResult
    from pipeline.jobs.export_plan import ExportPlan, ExportRequest
    from pipeline.jobs.ingest import Ingestion
    from pipeline.jobs.job import Job
    from pipeline.jobs.plan import Plan
    from pipeline.jobs.run import Run, Upscaling
    from pipeline.jobs.status import JobStatus
    from pipeline.storage.ledger import Note


_FORMATS = click.Choice(["same", "png", "tiff", "jpeg", "webp"])


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("archive", type=click.Path(path_type=Path))
@options.names_option
@options.cluster_options
@options.json_option
@options.reported
def ingest(
    src: str,
    archive: Path,
    names: str | None,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Bring pictures into a Zarr archive.

    SRC is a picture, folder, glob, .zip, .cbz or .tar; ARCHIVE is created or continued.
    Run again, it writes only what is new or changed. What became of each file is kept beside the
    archive, in ARCHIVE.ledger.sqlite.
    """
    from flows.terminal.progress import counted
    from pipeline.compute.cluster import ClusterSettings, connect
    from pipeline.jobs.ingest import run_ingest
    from pipeline.jobs.job import beside, locked
    from pipeline.jobs.overlap import check_not_read
    from pipeline.jobs.status import read_status
    from pipeline.storage.ledger import Ledger

    settings = ClusterSettings(address=cluster, workers=workers)
    check_not_read(archive, src=src, what="archive")
    lock, path = beside(archive)
    with (
        options.interruptible() as stop,
        locked(lock, archive.resolve(), "upres ingest"),
        closing(Ledger.open_file(path, job="ingest")) as ledger,
    ):
        with connect(settings) as client, counted("ingest", "files") as report:
            ingestion = run_ingest(
                src,
                archive_dir=archive,
                ledger=ledger,
                client=client,
                names=names or "",
                stop=stop,
                report=report,
            )
        status = read_status(archive, ledger, upscales=False)
    _finish(status, ingestion, as_json=as_json, stopped=stop.requested)


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("job_dir", metavar="JOB", type=click.Path(path_type=Path))
@click.option("--model", default="span-x4", show_default=True, metavar="NAME|FILE")
@options.names_option
@options.tile_options
@options.device_options("auto")
@options.limit_option
@options.cluster_options
@click.option("--reference", metavar="HR", help="Originals to score against.")
@click.option(
    "--export",
    "export_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the finished pictures as files below DIR.",
)
@click.option(
    "--format",
    "file_format",
    type=_FORMATS,
    default="same",
    show_default=True,
    help="File format of --export.",
)
@options.replacing_options
@click.option("--ledger", metavar="URL", help="Database of the ledger.  [default: SQLite in JOB]")
@options.json_option
@options.reported
def upscale(
    src: str,
    job_dir: Path,
    model: str,
    names: str | None,
    tile_px: int,
    halo: str | int,
    device: str,
    backend: str,
    precision: str,
    limit_s: float,
    cluster: str,
    workers: int | None,
    reference: str | None,
    export_dir: Path | None,
    file_format: str,
    overwrite: bool,
    prune: bool,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Upscale pictures into a job.

    SRC is a picture, folder, glob, .zip, .tar or an archive that `upres ingest` made.
    JOB is created, or continued: what is done already is not done again.
    """
    from pipeline.compute.cluster import ClusterSettings, connect
    from pipeline.compute.inference import gpus_of
    from pipeline.jobs.export_plan import ExportRequest
    from pipeline.jobs.job import create_job
    from pipeline.jobs.overlap import check_export_apart
    from pipeline.jobs.run import Upscaling, run_on
    from pipeline.jobs.spec import make_spec
    from pipeline.jobs.worker import ModelAddress
    from pipeline.sources.listing import check_source

    request = None
    if export_dir is not None:
        check_export_apart(export_dir, src=src, job_dir=job_dir, reference=reference)
        request = ExportRequest(
            out_dir=export_dir, format=file_format, overwrite=overwrite, prune=prune
        )
    elif file_format != "same":
        raise click.UsageError(f"--format {file_format} goes with --export DIR")
    elif overwrite or prune:
        option = "--overwrite" if overwrite else "--prune"
        raise click.UsageError(f"{option} goes with --export DIR")
    settings = ClusterSettings(address=cluster, workers=workers, gpus=gpus_of(device))
    spec = make_spec(
        model, tile_px=tile_px, halo=halo, precision=precision, device=device, backend=backend
    )
    address = ModelAddress(name_or_file=model, device=device)
    upscaling = Upscaling(spec=spec, model=address, limit_s=limit_s, halo=halo, backend=backend)
    check_source(src)
    if reference is not None:
        check_source(reference)
    job = create_job(job_dir, source=src, ledger_url=ledger)
    with (
        options.interruptible() as stop,
        run_on(job, "upres upscale", stop=stop) as run,
        connect(settings) as client,
    ):
        with _counted("ingest", "files") as report:
            ingestion = run.ingest(src, client, report, names=names or "", skip=export_dir)
        if request is not None:
            run.check_export(request)
        computed = 0
        if not stop.requested:
            computed = _upscale(run, upscaling, run.plan(upscaling), client)
        failures: list[Failure] = []
        if reference is not None and not stop.requested:
            failures += _score(run, reference, client, names)
        exported = None
        if request is not None and not stop.requested:
            exported = _export(run, run.plan_export(request), client)
            failures += exported.failures
        status = run.status()
    if request is not None and exported is not None and not as_json:
        _print_export(exported, request.out_dir)
    _finish(
        status,
        ingestion,
        as_json=as_json,
        stopped=stop.requested,
        computed=computed,
        more=failures,
        document={} if exported is None else {"export": exported.to_json()},
    )


@click.command()
@click.argument("job_dir", metavar="JOB|DATASET", type=click.Path(path_type=Path))
@click.option("--items", "list_items", is_flag=True, help="List every item.")
@options.json_option
@options.reported
def status(job_dir: Path, list_items: bool, as_json: bool) -> None:
    """Tell how far a job or a dataset is, and what failed.

    The exit code is 3 where items, tiles or chunks failed, and 0 otherwise.
    """
    from pipeline.jobs.job import open_job
    from pipeline.jobs.status import read_status
    from pipeline.storage.dataset import is_dataset

    if is_dataset(job_dir):
        from flows.prepare import dataset_status

        document, text, code = dataset_status(job_dir, list_items=list_items)
        if as_json:
            options.print_json(document)
        else:
            click.echo(text)
        sys.exit(code)
    job = open_job(job_dir)
    with closing(job.open_ledger_to_read()) as ledger:
        found, runs = read_status(job.folder, ledger), ledger.runs()
    if list_items and not as_json:
        _print_items(found)
    document = found.to_json()
    document["runs"] = runs
    if list_items:
        document["by_item"] = [
            {
                "item": c.item,
                "state": found.item_state(c),
                "done": c.done,
                "failed": c.failed,
                "pending": c.pending,
            }
            for c in found.counts
        ]
    _print_status(found, document, as_json=as_json)
    failed = found.items["failed"] or found.items["rejected"]
    sys.exit(options.INCOMPLETE if failed else options.DONE)


@click.command()
@click.argument("job_dir", metavar="JOB", type=click.Path(path_type=Path))
@click.option("--item", default="*", metavar="GLOB", help="Only items whose id matches.")
@click.option("--error", default="", metavar="TEXT", help="Only failures that contain TEXT.")
@click.option(
    "--stale", is_flag=True, help="Also all units whose pixels are of another model or spec."
)
@click.option(
    "--model", metavar="NAME|FILE", help="With --stale: upscale with this.  [default: as before]"
)
@click.option(
    "--backend",
    type=options.BACKENDS,
    help="What computes the network; another than before goes with --stale.  [default: as before]",
)
@options.cluster_options
@options.json_option
@options.reported
def rerun(
    job_dir: Path,
    item: str,
    error: str,
    stale: bool,
    model: str | None,
    backend: str | None,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Redo the failed tiles of a job, no others.

    They are computed as the job was upscaled last.
    """
    from pipeline.compute.cluster import ClusterSettings, connect
    from pipeline.compute.inference import gpus_of
    from pipeline.jobs.job import open_job
    from pipeline.jobs.run import run_on

    if model is not None and not stale:
        raise click.UsageError(f"--model {model} makes tiles stale; add --stale to redo them")
    settings = ClusterSettings(address=cluster, workers=workers)
    job = open_job(job_dir)
    with options.interruptible() as stop, run_on(job, "upres rerun", stop=stop) as run:
        upscaling = run.last_upscaling()
        if stale:
            upscaling = upscaling.renewed(model, backend=backend)
        elif backend is not None:
            upscaling = upscaling.asked_for(backend)
        plans = run.plan_rerun(upscaling, item=item, error=error, stale=stale)
        units, items = plans.size
        click.echo(f"{units} tiles of {items} items to redo", err=True)
        if not units:
            _print_why_nothing_is_redone(run.status(), item)
        computed = 0
        if units:
            gpus = gpus_of(upscaling.model.device)
            with connect(replace(settings, gpus=gpus)) as client:
                computed = _upscale(run, upscaling, plans, client)
        status = run.status()
    _finish(status, as_json=as_json, stopped=stop.requested, computed=computed)


def _print_why_nothing_is_redone(status: JobStatus, item: str) -> None:
    from pipeline.sources.name_forms import selects

    items = status.items
    names = {*(count.item for count in status.counts), *(c.stack for c in status.counts if c.stack)}
    if not any(map(selects(item, lambda: names), names)):
        click.echo(f"no item matches --item {visible(item)}", err=True)
    if items["rejected"]:
        click.echo(
            "rejected files are not failed tiles: repair them, then run `upres upscale` again",
            err=True,
        )
    if items["pending"]:
        click.echo(
            f"{items['pending']} items are pending, not failed: run `upres upscale` again", err=True
        )


@click.command()
@click.argument("job_dir", metavar="JOB", type=click.Path(path_type=Path))
@click.option("--reference", metavar="HR", help="Originals: a folder, glob, .zip or .tar.")
@options.names_option
@options.cluster_options
@options.json_option
@options.reported
def score(
    job_dir: Path,
    reference: str | None,
    names: str | None,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Score every tile: PSNR-Y and SSIM-Y.

    With --reference, SR and bicubic are compared with the originals; without, SR is reduced again
    and compared with the LR input (consistency).
    """
    from flows.terminal.score_table import score_table
    from pipeline.compute.cluster import ClusterSettings, connect
    from pipeline.jobs.job import open_job
    from pipeline.jobs.run import run_on
    from pipeline.jobs.score import read_scores, scores_to_json

    job = open_job(job_dir)
    with (
        options.interruptible() as stop,
        run_on(job, "upres score", stop=stop) as run,
        connect(ClusterSettings(address=cluster, workers=workers)) as client,
    ):
        failures = _score(run, reference, client, names)
        document = scores_to_json(read_scores(run.ledger))
    document["failures"] = _as_json(failures)
    if as_json:
        options.print_json(document)
    else:
        click.echo(score_table(document, compared=reference is not None))
        _print_failures(failures)
    sys.exit(_exit_code(bool(failures), stop.requested))


@click.command()
@click.argument("job_dir", metavar="JOB|DATASET", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the page of a DATASET to this file, where it cannot be written into.",
)
@options.json_option
@options.reported
def report(job_dir: Path, out: Path | None, as_json: bool) -> None:
    """Write the report of a job or a dataset, one HTML file.

    JOB/report.html: figures, before and after, and a map of every tile's score.
    DATASET/about/report.html: splits, statistics, licences, and a sheet of patches.
    """
    from flows.prepare import report_dataset
    from pipeline.jobs.job import open_job
    from pipeline.reports.job_report import write_report
    from pipeline.storage.dataset import is_dataset

    if is_dataset(job_dir):
        path = report_dataset(job_dir, out=out)
    elif out is not None:
        raise click.UsageError("--out is for a DATASET; a job's report is JOB/report.html")
    else:
        path = write_report(open_job(job_dir))
    if as_json:
        options.print_json({"job": str(job_dir), "report": str(path)})
    else:
        click.echo(visible(str(path)))


@click.command()
@click.argument("job_dir", metavar="JOB|DATASET", type=click.Path(path_type=Path))
@click.argument("out_dir", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--format", "file_format", type=_FORMATS, default="same", show_default=True)
@options.replacing_options
@options.cluster_options
@options.json_option
@options.reported
def export(
    job_dir: Path,
    out_dir: Path,
    file_format: str,
    overwrite: bool,
    prune: bool,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Write the finished pictures as files.

    They are written below DIR in the tree of their sources, with their metadata and modification
    times. A file that is there already, as this job wrote it and still right, is not touched; one
    that this job did not write is never replaced without --overwrite.

    An item with a tile that failed or is pending is not written, but listed. Of a DATASET each
    patch becomes PNG files below DIR/SPLIT/hr and DIR/SPLIT/lr_NAME, for other trainers.
    """
    from flows.prepare import export_dataset
    from pipeline.compute.cluster import ClusterSettings
    from pipeline.jobs.export_plan import ExportRequest
    from pipeline.jobs.job import open_job
    from pipeline.storage.dataset import is_dataset

    settings = ClusterSettings(address=cluster, workers=workers)
    document: dict[str, Any] = {"job": str(job_dir), "dir": str(out_dir)}
    failures: Sequence[Failure]
    with options.interruptible() as stop:
        if is_dataset(job_dir):
            if file_format not in ("same", "png"):
                raise click.UsageError(f"--format is {file_format}, but patches are written as png")
            if prune:
                raise click.UsageError("--prune is for jobs, not for datasets")
            written, failures = export_dataset(
                job_dir, out_dir, settings, overwrite=overwrite, stop=stop
            )
            document["written"] = written
            text = f"{written} patches written below {visible(str(out_dir))}"
        else:
            request = ExportRequest(
                out_dir=out_dir, format=file_format, overwrite=overwrite, prune=prune
            )
            exported = _export_alone(open_job(job_dir), request, settings, stop)
            failures = exported.failures
            document |= exported.to_json()
            text = ""
            if not as_json:
                _print_export(exported, out_dir)
                if exported.notes:
                    _print_notes(exported.notes, f"`upres status {job_dir} --items`")
    if as_json:
        options.print_json({**document, "failures": _as_json(failures)})
    else:
        if text:
            click.echo(text)
        _print_failures(failures)
    sys.exit(_exit_code(bool(failures), stop.requested))


def _counted(label: str, unit: str) -> Any:
    from flows.terminal.progress import counted

    return counted(label, unit)


def _upscale(run: Run, upscaling: Upscaling, plans: Plan, client: Client) -> int:
    from flows.terminal.progress import tiles

    replaced = run.replaced(plans)
    if replaced:
        click.echo(
            f"{replaced} pictures are of another model, spec or content and are made anew", err=True
        )
    with tiles() as report_tiles:
        return run.upscale(upscaling, plans, client, report_tiles)


def _score(run: Run, reference: str | None, client: Client, names: str | None) -> list[Failure]:
    with _counted("score", "items") as report_items:
        return run.score(reference, client, report_items, names=names or "")


def _export(run: Run, plan: ExportPlan, client: Client | None) -> ExportResult:
    with _counted("export", "items") as report_items:
        return run.export(plan, client, report_items)


def _export_alone(
    job: Job, request: ExportRequest, settings: ClusterSettings, stop: Stop
) -> ExportResult:
    """Export a job; workers are started only where there is something to write."""
    from pipeline.compute.cluster import connect
    from pipeline.jobs.run import run_on

    with run_on(job, "upres export", stop=stop) as run:
        plan = run.plan_export(request)
        if not plan.tasks:
            return run.export(plan, None)
        with connect(settings) as client:
            return _export(run, plan, client)


def _print_export(exported: ExportResult, out_dir: Path) -> None:
    counts = [f"{exported.written} pictures written below {visible(str(out_dir))}"]
    if exported.unchanged:
        counts.append(f"{exported.unchanged} unchanged")
    if exported.pruned:
        counts.append(f"{exported.pruned} pruned")
    click.echo(", ".join(counts))
    if not exported.gone:
        return
    hint = "--prune removes those that this job wrote"
    if exported.kept:
        hint = "not pruned: changed since, or not written by this job"
    many = len(exported.gone)
    click.echo(
        f"gone from the source, still in {out_dir}: {many} file{'s' * (many > 1)} ({hint})",
        err=True,
    )
    for path in exported.gone[:SHOWN]:
        click.echo(f"  {visible(path)}", err=True)
    if many > SHOWN:
        click.echo(f"  and {many - SHOWN} more; --json lists them all", err=True)


def _finish(
    status: JobStatus,
    ingestion: Ingestion | None = None,
    *,
    as_json: bool,
    stopped: bool,
    computed: int = 0,
    more: Sequence[Failure] = (),
    document: dict[str, Any] | None = None,
) -> None:
    """Print how a run ended, and exit with the code that says it; JSON has `document` beside."""
    document = status.to_json(computed_units=computed) | (document or {})
    extra = [f for f in more if f.error != "NotDone"]
    document["failures"] += _as_json(extra)
    if ingestion is not None:
        document["left_out"] = ingestion.left_out.to_json()
        document["remarks"] = list(ingestion.remarks)
    _print_status(status, document, as_json=as_json, more=extra)
    sys.exit(_exit_code(not status.complete or bool(extra), stopped))


def _exit_code(failed: bool, stopped: bool) -> int:
    if stopped:
        return options.INTERRUPTED
    return options.INCOMPLETE if failed else options.DONE


def _print_status(
    status: JobStatus, document: dict[str, Any], *, as_json: bool, more: Sequence[Failure] = ()
) -> None:
    from pipeline.jobs.status import vanished

    if as_json:
        options.print_json(document)
        return
    for kind in ("items", "units"):
        counts = ", ".join(f"{n} {state}" for state, n in document[kind].items() if n)
        name = "tiles" if kind == "units" else kind
        if counts:
            click.echo(f"{name:6} {counts}")
    if document["computed_units"]:
        click.echo(f"{document['computed_units']} tiles computed in this run")
    # Failures before everything that is only to be known: what is read first must be theirs.
    _print_failures([*status.failures, *more])
    _print_gone(vanished(status))
    for remark in document.get("remarks", ()):
        click.echo(visible(remark), err=True)
    if status.notes:
        lister = f"`upres status {status.folder} --items`" if status.upscales else "--json"
        _print_notes(status.notes, lister)


def _print_notes(notes: Sequence[Note], lister: str) -> None:
    items = len({note.item for note in notes})
    line = f"notes on what was not kept: {len(notes)}, on {items} items; {lister} lists them"
    click.echo(visible(line), err=True)


def _print_items(status: JobStatus) -> None:
    notes: dict[str, list[str]] = {}
    for note in status.notes:
        notes.setdefault(note.item, []).append(f"{'':24}{note.stage}: {note.note}")
    for count in status.counts:
        click.echo(
            f"{status.item_state(count):9} {count.done:>6}/{count.units:<6} {visible(count.item)}"
        )
        for line in notes.get(count.item, ()):
            click.echo(visible(line))


def _print_failures(failures: Sequence[Failure]) -> None:
    for line in failure_lines(failures):
        click.echo(f"  {line}", err=True)


def _print_gone(gone: Sequence[str]) -> None:
    for item in gone[:SHOWN]:
        click.echo(
            f"  {visible(item)}: gone from the source; what was made of it is kept", err=True
        )
    if len(gone) > SHOWN:
        click.echo(f"  and {len(gone) - SHOWN} more are gone from the source", err=True)


def _as_json(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(failure) for failure in failures]
