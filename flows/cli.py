"""The command line. Heavy imports live inside the commands, so that help answers at once."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows import options
from flows.failures import SHOWN, failure_lines
from flows.printing import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.cluster import Client, ClusterSettings, Stop
    from pipeline.export import ExportResult
    from pipeline.export_plan import ExportPlan, ExportRequest
    from pipeline.ingest import Ingestion
    from pipeline.job import Job
    from pipeline.plan import Plan
    from pipeline.run import Run, Upscaling
    from pipeline.status import Failure, JobStatus
    from pipeline.storage.ledger import Note

_FORMATS = click.Choice(["same", "png", "tiff", "jpeg", "webp"])


@click.group(
    cls=options.OneLineErrors,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        # Or click would take an escape in a name away, which must be seen.
        "color": True,
    },
)
@click.version_option(package_name="upres")
def main() -> None:
    """Upscale whole image archives: tiles, scores, resume, rerun.

    Exit codes: 0 everything done; 1 the command failed; 2 wrong usage; 3 finished, but some items
    or tiles failed (each listed with its reason); 130 interrupted.
    """


@main.command()
@click.argument("folder", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@options.cluster_options
@options.json_option
@options.reported
def demo(folder: Path, cluster: str, workers: int | None, as_json: bool) -> None:
    """Show the main job on shipped photographs.

    They are reduced by four into DIR, upscaled again through the Prefect flow on local workers,
    scored against the originals, exported, and reported.
    """
    from flows.demo import run_demo
    from pipeline.cluster import ClusterSettings

    result = run_demo(folder, ClusterSettings(address=cluster, workers=workers))
    if as_json:
        options.print_json(result.document)
    else:
        click.echo(result.text)
    sys.exit(options.DONE if result.complete else options.INCOMPLETE)


@main.command()
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
    from flows.progress import counted
    from pipeline.apart import check_not_read
    from pipeline.cluster import ClusterSettings, connect
    from pipeline.ingest import run_ingest
    from pipeline.job import beside, locked
    from pipeline.status import read_status
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


@main.command()
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
    from pipeline.apart import check_export_apart
    from pipeline.cluster import ClusterSettings, connect
    from pipeline.export_plan import ExportRequest
    from pipeline.inference import gpus_of
    from pipeline.job import create_job
    from pipeline.run import Upscaling, run_on
    from pipeline.sources import check_source
    from pipeline.spec import make_spec
    from pipeline.unit import ModelAddress

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


@main.command()
@click.argument("job_dir", metavar="JOB|DATASET", type=click.Path(path_type=Path))
@click.option("--items", "list_items", is_flag=True, help="List every item.")
@options.json_option
@options.reported
def status(job_dir: Path, list_items: bool, as_json: bool) -> None:
    """Tell how far a job or a dataset is, and what failed.

    The exit code is 3 where items, tiles or chunks failed, and 0 otherwise.
    """
    from pipeline.job import open_job
    from pipeline.status import read_status
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


@main.command()
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
    from pipeline.cluster import ClusterSettings, connect
    from pipeline.inference import gpus_of
    from pipeline.job import open_job
    from pipeline.plan import items_in
    from pipeline.run import run_on

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
        units = sum(len(plan.tiles) for plan in plans)
        items = sum(map(items_in, plans))
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
    from pipeline.forms import selects

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


@main.command()
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
    from flows.tables import score_table
    from pipeline.cluster import ClusterSettings, connect
    from pipeline.job import open_job
    from pipeline.run import run_on
    from pipeline.score import read_scores, scores_to_json

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


@main.command()
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
    from pipeline.job import open_job
    from pipeline.report import write_report
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


@main.command()
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
    from pipeline.cluster import ClusterSettings
    from pipeline.export_plan import ExportRequest
    from pipeline.job import open_job
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


@main.command()
@click.argument("model", metavar="MODEL")
@click.argument(
    "hr_dirs", metavar="HR_DIR|DATASET...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@options.device_options("fp32")
@options.features_option
@options.json_option
@options.reported
def evaluate(
    model: str,
    hr_dirs: tuple[Path, ...],
    features: tuple[Path, ...],
    device: str,
    backend: str,
    precision: str,
    as_json: bool,
) -> None:
    """Measure a model by the published protocol.

    MODEL is a name or a file, HR_DIR a folder of HR pictures: LR is made by antialiased bicubic
    reduction. Of a DATASET that `upres prepare` made, each LR version is scored, on the patches
    held out for test (or validation).

    PSNR and SSIM are of the Y channel, a border of `scale` pixels left out. The default precision
    is fp32, so that figures do not depend on the machine.
    """
    from pipeline.evaluate import evaluate_model
    from pipeline.training.objective import FeatureFiles

    document = evaluate_model(
        model,
        hr_dirs,
        device=device,
        precision=precision,
        backend=backend,
        features=FeatureFiles.named(features),
    )
    if as_json:
        options.print_json(document)
        return
    name = document["model"]
    # A checkpoint bears the name of its recipe, as the shipped weights do.
    shown = visible(name if name.startswith(model) else f"{model} ({name})")
    click.echo(f"{shown}, x{document['scale']}, {document['precision']}, {document['backend']}")
    for found in document["sets"]:
        click.echo(_set_scores(found))


@main.command()
@click.argument("src", metavar="SRC")
@click.argument("dataset_dir", metavar="DATASET", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="How patches are cut and degraded.  [default: as the dataset was]",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."
)
@click.option(
    "--lr",
    "lr_sources",
    multiple=True,
    metavar="NAME=SRC",
    help="Take the LR version NAME from files that are matched by name: 0001.png and 0001x4.png.",
)
@click.option(
    "--licence", metavar="TEXT|FILE", help="Licence of the pictures, or a .json or .csv of them."
)
@click.option(
    "--preview", is_flag=True, help="Only draw a contact sheet beside DATASET; prepare nothing."
)
@click.option(
    "--prune", is_flag=True, help="Take out the patches of pictures that are gone from SRC."
)
@click.option("--check", is_flag=True, help="Read back what is there; make anew what is damaged.")
@options.names_option
@click.option(
    "--unchecked", is_flag=True, help="Take LR files of --lr even where they show something else."
)
@options.limit_option
@options.cluster_options
@options.json_option
@options.reported
def prepare(
    src: str,
    dataset_dir: Path,
    recipe: str | None,
    settings: tuple[str, ...],
    lr_sources: tuple[str, ...],
    licence: str | None,
    preview: bool,
    prune: bool,
    check: bool,
    names: str | None,
    unchecked: bool,
    limit_s: float,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Prepare a dataset of training patches.

    SRC is a picture, folder, glob, .zip, .tar or an archive that `upres ingest` made. DATASET, a
    Zarr group, is created or continued: what is there already is not made again. What became of
    each picture is kept beside it, in DATASET.ledger.sqlite.
    """
    from flows.prepare import PrepareOptions, PrepareRequest, preview_dataset, run_prepare
    from pipeline.cluster import ClusterSettings

    request = PrepareRequest.of(
        src,
        dataset_dir,
        recipe=recipe,
        settings=settings,
        lr_sources=lr_sources,
        licence=licence,
        names=names or "",
    )
    if preview and (check or prune):
        raise click.UsageError("--preview prepares nothing, so --check and --prune do nothing")
    if preview:
        document, text, code = preview_dataset(request, unchecked=unchecked)
    else:
        with options.interruptible() as stop:
            cluster_settings = ClusterSettings(address=cluster, workers=workers)
            how = PrepareOptions(check=check, prune=prune, limit_s=limit_s, unchecked=unchecked)
            document, text, code = run_prepare(request, cluster_settings, stop=stop, how=how)
    if as_json:
        options.print_json(document)
    else:
        click.echo(text)
    sys.exit(code)


@main.command()
@click.argument("src", metavar="DATASET|SRC")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="What to train, and how.  [with --resume: as it was begun]",
)
@click.option(
    "--out", "out_dir", required=True, type=click.Path(path_type=Path), help="Where it is left."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."
)
@options.features_option
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="To train on."
)
@click.option(
    "--readers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes that read patches, where these do not fit into memory.",
)
@click.option(
    "--memory",
    type=click.Choice(["auto", "disk", "ram", "gpu"]),
    default="auto",
    show_default=True,
    help="Where patches are kept; auto is the fastest that they fit.",
)
@click.option("--resume", is_flag=True, help="Go on exactly where the training in DIR stopped.")
@options.json_option
@options.reported_with(again="the same command, with --resume if a step was made,")
def train(
    src: str,
    recipe: str | None,
    out_dir: Path,
    settings: tuple[str, ...],
    features: tuple[Path, ...],
    device: str,
    readers: int,
    memory: str,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a network by a recipe.

    DATASET is what `upres prepare` made; pictures (SRC) are prepared by the recipe first, into
    DIR/patches, and --set prepare.KEY=VALUE says how. Under torchrun several processes share one
    training.

    Leaves in --out: best.safetensors and last.safetensors (models that --model takes),
    checkpoints/, metrics.csv, curves.png, samples/, events/ for TensorBoard, recipe.toml as
    resolved, and state.safetensors for --resume.
    """
    from flows.train import TrainRequest, run_training, sheet

    request = TrainRequest(
        source=src, recipe=recipe, settings=settings, out_dir=out_dir, resume=resume
    )
    with options.interruptible() as stop:
        document, leads = run_training(
            request,
            features=features,
            device=device,
            workers=readers,
            memory=memory,
            stop=stop,
        )
    ended = document["steps"] == document["of_steps"]
    if leads and as_json:
        options.print_json(document)
    elif leads:
        click.echo(sheet(document))
    if leads and not ended:
        click.echo("upres: stopped; the same command with --resume goes on exactly there", err=True)
    sys.exit(options.DONE if ended else options.INTERRUPTED)


@main.command()
@click.argument("name", required=False)
@options.json_option
@options.reported
def models(name: str | None, as_json: bool) -> None:
    """List the models, or tell all of one.

    Some come with their weights; the others are recipes that `upres train` trains.
    """
    from flows.models import describe, sheet, table

    if name is not None:
        document: Any = describe(name)
        text = sheet(document)
    else:
        document, text = table()
    if as_json:
        options.print_json(document)
    else:
        click.echo(text)


def _set_scores(found: dict[str, Any]) -> str:
    psnr = "infinite" if found["psnr_y"] is None else f"{found['psnr_y']:.3f} dB"
    words = [f"{visible(found['name']):16} {found['images']:>4} pictures", f"PSNR-Y {psnr}"]
    words.append(f"SSIM-Y {found['ssim_y']:.4f}")
    if found["lpips"] is not None:
        words.append(f"LPIPS {found['lpips']:.4f}")
    if found["equal"]:
        words.append(f"({found['equal']} equal to HR, left out of PSNR)")
    if found["left_out"]:
        words.append(f"({sum(found['left_out'].values())} files that are not pictures left out)")
    return "  ".join(words)


def _counted(label: str, unit: str) -> Any:
    from flows.progress import counted

    return counted(label, unit)


def _upscale(run: Run, upscaling: Upscaling, plans: Plan, client: Client) -> int:
    from flows.progress import tiles

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
    from pipeline.cluster import connect
    from pipeline.run import run_on

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
        hint = "not pruned: changed since, not written by this job, or not to be removed"
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
    from pipeline.status import vanished

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


if __name__ == "__main__":
    main()
