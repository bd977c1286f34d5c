"""Results of jobs and datasets on the command line: score, report, export."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flows.terminal import options
from flows.terminal.printing import number_of, visible
from pipeline.compute.request import WorkersRequest
from pipeline.jobs.export.names import SAME
from pipeline.jobs.export.request import ExportRequest
from pipeline.jobs.request import ScoreRequest
from pipeline.storage.store import check_stores, local

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compute.outcomes import Failure
    from pipeline.storage.store import Place


@click.command()
@click.argument("job_dir", metavar="JOB", type=options.PLACE)
@options.reference_option
@options.names_option
@options.cluster_options
@options.json_option
@options.reported
def score(as_json: bool, **asked: Any) -> None:
    """Score every tile: PSNR-Y and SSIM-Y.

    With --reference, the enlarged pictures and bicubic ones are compared with the originals.
    Without, the enlarged pictures are reduced again and compared with the pictures that they were
    made from (consistency).
    """
    from flows.terminal.failures import print_failures
    from flows.terminal.job_listening import CommandTerminal
    from flows.terminal.job_results import exit_code
    from flows.terminal.score_table import score_table
    from pipeline.jobs.perform import score_job

    request = ScoreRequest(**asked)
    result = score_job(request, CommandTerminal())
    if as_json:
        options.print_json(result.to_json())
    else:
        click.echo(score_table(result.to_json(), compared=request.reference is not None))
        print_failures(result.failures)
    sys.exit(exit_code(failed=bool(result.failures), stopped=result.stopped))


@click.command()
@click.argument("job_dir", metavar="JOB|DATASET", type=options.PLACE)
@click.option(
    "--out",
    type=options.FILE_PLACE,
    help="Write the report of a DATASET to this file. Use it if DATASET is read-only.",
)
@options.json_option
@options.reported
def report(job_dir: Place, out: Place | None, as_json: bool) -> None:
    """Write the report of a job or a dataset, one HTML file.

    JOB/report.html: figures, before and after, and a map of every tile's score.
    DATASET/about/report.html: splits, statistics, licences, and a sheet of patches.
    """
    from pipeline.jobs.job import open_job
    from pipeline.reports.dataset_report import report_dataset
    from pipeline.reports.job_report import write_report
    from pipeline.storage.dataset import is_dataset

    check_stores(job_dir, out)
    path: Place
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
@click.argument("job_dir", metavar="JOB|DATASET", type=options.PLACE)
@click.argument("out_dir", metavar="DIR", type=options.PLACE)
@options.format_option
@options.replacing_options
@options.cluster_options
@options.json_option
@options.reported
def export(
    job_dir: Place,
    out_dir: Place,
    file_format: str,
    overwrite: bool,
    prune: bool,
    as_json: bool,
    **workers: Any,
) -> None:
    """Write the finished pictures as files.

    The files are written below DIR, in the same folders as their sources, with their metadata and
    modification times. Files of this job that are up to date are not written again. A file that
    this job did not write is only replaced with --overwrite. Pictures with failed or pending tiles
    are listed and not written. For a DATASET, each patch becomes PNG files below DIR/SPLIT/hr and
    DIR/SPLIT/lr_NAME, for other trainers.
    """
    from pipeline.storage.dataset import is_dataset

    request = ExportRequest(out_dir=out_dir, format=file_format, overwrite=overwrite, prune=prune)
    check_stores(job_dir)
    end = _export_dataset if is_dataset(job_dir) else _export_job
    end(job_dir, request, WorkersRequest(**workers), as_json=as_json)


def _export_job(
    job_dir: Place, request: ExportRequest, workers: WorkersRequest, *, as_json: bool
) -> NoReturn:
    from flows.terminal.exports import print_export
    from flows.terminal.job_listening import CommandTerminal
    from flows.terminal.job_results import print_notes
    from pipeline.jobs.perform import export_job

    exported = export_job(job_dir, request, workers.cluster_settings(), CommandTerminal())
    document = {"job": str(job_dir), "dir": str(request.out_dir), **exported.to_json()}
    if not as_json:
        print_export(exported, request.out_dir)
        if exported.notes:
            print_notes(exported.notes, f"`upres status {job_dir} --items`")
    incomplete = bool(exported.failures or exported.let_go)
    _end(document, exported.failures, incomplete, stopped=exported.stopped, as_json=as_json)


def _export_dataset(
    dataset_dir: Place, request: ExportRequest, workers: WorkersRequest, *, as_json: bool
) -> NoReturn:
    from flows.terminal.listening import Terminal
    from pipeline.dataset.export import export_dataset

    if request.format not in (SAME, "png"):
        raise click.UsageError(f"--format is {request.format}, but patches are written as png")
    if request.prune:
        raise click.UsageError("--prune is for jobs, not for datasets")
    settings, out_dir = workers.cluster_settings(), local(request.out_dir, "DIR")
    with options.interruptible() as stop:
        exported = export_dataset(
            dataset_dir,
            out_dir,
            settings,
            overwrite=request.overwrite,
            stop=stop,
            listener=Terminal(),
        )
    if not as_json:
        written = number_of(exported.written, "patch", "patches")
        click.echo(f"{written} written below {visible(str(out_dir))}")
    document = {"job": str(dataset_dir), "dir": str(out_dir), "written": exported.written}
    incomplete = bool(exported.failures)
    _end(document, exported.failures, incomplete, stopped=stop.requested, as_json=as_json)


def _end(
    document: dict[str, Any],
    failures: Sequence[Failure],
    incomplete: bool,
    *,
    stopped: bool,
    as_json: bool,
) -> NoReturn:
    from flows.terminal.failures import print_failures
    from flows.terminal.job_results import exit_code

    if as_json:
        options.print_json({**document, "failures": [asdict(failure) for failure in failures]})
    else:
        print_failures(failures)
    sys.exit(exit_code(failed=incomplete, stopped=stopped))
