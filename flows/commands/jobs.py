"""Jobs on the command line: ingest, upscale, status, rerun."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flows.terminal import options
from pipeline.constants import KEEPS
from pipeline.jobs.request import IngestRequest, RerunRequest, UpscaleRequest
from pipeline.storage.store import check_stores

if TYPE_CHECKING:
    from pipeline.jobs.choice import Chosen
    from pipeline.storage.ledger import Ledger
    from pipeline.storage.store import Place


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("archive", type=options.PLACE)
@options.names_option
@options.codec_option
@options.asked(IngestRequest, "ledger", "--ledger", metavar="URL")
@options.cluster_options
@options.json_option
@options.reported
def ingest(as_json: bool, **asked: Any) -> None:
    """Bring pictures into a Zarr archive.

    SRC is a picture, folder, glob, s3://BUCKET/PREFIX, .zip, .cbz or .tar. ARCHIVE is created or
    continued: repeat the command to add what is new or changed. ARCHIVE.ledger.sqlite records what
    became of each file.
    """
    from flows.terminal.job_listening import CommandTerminal
    from flows.terminal.job_results import end_with
    from pipeline.jobs.perform import ingest_archive

    end_with(ingest_archive(IngestRequest(**asked), CommandTerminal()), as_json=as_json)


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("job_dir", metavar="JOB", type=options.PLACE)
@options.asked(UpscaleRequest, "model", "--model", metavar="NAME|FILE|auto")
@options.asked(UpscaleRequest, "restore", "--restore", type=float, metavar="0..1")
@options.names_option
@options.tile_options
@options.device_options()
@options.asked(UpscaleRequest, "instructions", "--instructions", metavar="auto|LEVEL")
@options.limit_option
@options.cluster_options
@options.reference_option
@options.asked(
    UpscaleRequest,
    "export_dir",
    "--export",
    type=options.PLACE,
    metavar="DIR",
)
@options.format_option
@options.replacing_options
@options.asked(UpscaleRequest, "keep", "--keep", type=click.Choice(KEEPS))
@options.codec_option
@options.asked(UpscaleRequest, "ledger", "--ledger", metavar="URL")
@options.asked(UpscaleRequest, "until", "--until", metavar="TIME")
@options.asked(UpscaleRequest, "budget", "--budget", metavar="DURATION")
@options.asked(UpscaleRequest, "timezone", "--timezone", metavar="ZONE")
@options.json_option
@options.reported
def upscale(as_json: bool, **asked: Any) -> None:
    """Upscale pictures into a job.

    SRC is a picture, folder, glob, s3://BUCKET/PREFIX, .zip, .tar, or an archive made by `upres
    ingest`. JOB is a folder or s3://BUCKET/PREFIX. It is created or continued: finished tiles are
    not computed again.
    """
    from flows.terminal.exports import print_export
    from flows.terminal.job_listening import CommandTerminal
    from flows.terminal.job_results import end_with
    from pipeline.jobs.perform import upscale_job

    request = UpscaleRequest(**asked)
    result = upscale_job(request, CommandTerminal())
    if request.export is not None and result.exported is not None and not as_json:
        print_export(result.exported, request.export.out_dir)
    end_with(result, as_json=as_json)


@click.command()
@click.argument("job_dir", metavar="JOB|DATASET", type=options.PLACE)
@click.option("--items", "list_items", is_flag=True, help="List every item.")
@click.option("--disk", "show_disk", is_flag=True, help="Show what a job takes on its disk.")
@options.json_option
@options.reported
def status(job_dir: Place, list_items: bool, show_disk: bool, as_json: bool) -> None:
    """Show how much of a job or dataset is done, and what failed.

    The exit code is 3 if items, tiles or chunks failed, and 0 otherwise.
    """
    from pipeline.storage.dataset import is_dataset

    check_stores(job_dir)
    if is_dataset(job_dir):
        from flows.commands.datasets import print_status

        if show_disk:
            raise click.UsageError(f"{job_dir} is a dataset, and --disk is for jobs")
        print_status(job_dir, list_items=list_items, as_json=as_json)
    _end_with_job(job_dir, list_items=list_items, show_disk=show_disk, as_json=as_json)


def _end_with_job(job_dir: Place, *, list_items: bool, show_disk: bool, as_json: bool) -> NoReturn:
    from flows.terminal import job_results
    from pipeline.compute.status import read_status
    from pipeline.jobs.disk_use import disk_use
    from pipeline.jobs.job import open_job
    from pipeline.storage.ledger import LR, SR

    job = open_job(job_dir)
    with closing(job.open_ledger_to_read()) as ledger:
        found, runs = read_status(job.folder, ledger), ledger.runs()
        chosen = _chosen_models(ledger) if list_items else {}
        disk = disk_use(job, ledger) if show_disk else None
        gone = ledger.count_let_go()
    if as_json:
        document = job_results.status_document(found, runs, chosen, list_items=list_items)
        document["let_go"] = {archive: gone.get(archive, 0) for archive in (LR, SR)}
        if disk is not None:
            document["disk"] = disk.to_json()
        options.print_json(document)
    else:
        if list_items:
            job_results.print_items(found, chosen)
        job_results.print_counts(found)
        job_results.print_let_go(gone)
        if disk is not None:
            job_results.print_disk(disk)
        job_results.print_what_is_wrong(found)
    failed = bool(found.items["failed"] or found.items["rejected"])
    sys.exit(job_results.exit_code(failed=failed, stopped=False))


def _chosen_models(ledger: Ledger) -> dict[str, Chosen]:
    # It knows the networks, so it loads torch, which takes longer than all else of `status`.
    from pipeline.jobs.choice import chosen_models

    return chosen_models(ledger)


@click.command()
@click.argument("job_dir", metavar="JOB", type=options.PLACE)
@options.asked(RerunRequest, "item", "--item", metavar="GLOB")
@options.asked(RerunRequest, "error", "--error", metavar="TEXT")
@options.asked(RerunRequest, "stale", "--stale", is_flag=True)
@options.asked(RerunRequest, "model", "--model", metavar="NAME|FILE")
@options.asked(RerunRequest, "backend", "--backend", type=options.BACKENDS)
@options.cluster_options
@options.json_option
@options.reported
def rerun(as_json: bool, **asked: Any) -> None:
    """Compute the failed tiles of a job again, and no others.

    Model, tile size and precision are those that the job was last upscaled with.
    """
    from flows.terminal.job_listening import CommandTerminal
    from flows.terminal.job_results import end_with, print_why_nothing_is_redone
    from pipeline.jobs.perform import rerun_job

    request = RerunRequest(**asked)
    result = rerun_job(request, CommandTerminal())
    if not result.planned_units:
        print_why_nothing_is_redone(result.status, request.item)
    end_with(result, as_json=as_json)
