"""Datasets on the command line: prepare."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flows.terminal import options
from pipeline.dataset.request import PrepareRequest

if TYPE_CHECKING:
    from pipeline.dataset.run import PrepareResult
    from pipeline.storage.store import Place


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("dataset_dir", metavar="DATASET", type=options.PLACE)
@options.asked(PrepareRequest, "recipe", "--recipe", metavar="NAME|FILE")
@options.settings_option
@options.asked(PrepareRequest, "lr_sources", "--lr", multiple=True, metavar="NAME=SRC")
@options.asked(PrepareRequest, "ledger", "--ledger", metavar="URL")
@options.asked(PrepareRequest, "licence", "--licence", metavar="TEXT|FILE")
@click.option(
    "--preview", is_flag=True, help="Only draw a contact sheet next to DATASET; prepare nothing."
)
@options.asked(PrepareRequest, "prune", "--prune", is_flag=True)
@options.asked(PrepareRequest, "read_back", "--check", is_flag=True)
@options.names_option
@options.asked(PrepareRequest, "unchecked", "--unchecked", is_flag=True)
@options.limit_option
@options.cluster_options
@options.json_option
@options.reported
def prepare(preview: bool, as_json: bool, **asked: Any) -> None:
    """Prepare a dataset of training patches.

    SRC is a picture, folder, glob, s3://BUCKET/PREFIX, .zip, .tar, or an archive made by `upres
    ingest`. DATASET, a Zarr group in a folder or at s3://BUCKET/PREFIX, is created or continued:
    finished patches are not made again. DATASET.ledger.sqlite records what became of each picture.
    """
    request = PrepareRequest(**asked)
    if not preview:
        _prepare(request, as_json=as_json)
    elif request.read_back or request.prune:
        raise click.UsageError("--preview prepares nothing; leave out --check and --prune")
    else:
        _preview(request, as_json=as_json)


def _prepare(request: PrepareRequest, *, as_json: bool) -> NoReturn:
    from flows.terminal.datasets import result_text, show_failures
    from flows.terminal.listening import Terminal
    from pipeline.dataset import run
    from pipeline.reports.dataset_report import write_dataset_report

    with options.interruptible() as stop:
        result = run.prepare_dataset(
            request, stop=stop, write_report=write_dataset_report, listener=Terminal()
        )
    show_failures(result.status, result.remarks)
    if as_json:
        options.print_json(result.to_json())
    else:
        click.echo(result_text(result))
    sys.exit(_exit_code(result))


def _exit_code(result: PrepareResult) -> int:
    if result.interrupted:
        return options.INTERRUPTED
    if not result.has_patches:
        return options.FAILED
    return options.DONE if result.status.complete else options.INCOMPLETE


def _preview(request: PrepareRequest, *, as_json: bool) -> NoReturn:
    from flows.terminal.datasets import preview_text, show_broken
    from pipeline.reports.patch_preview import preview_dataset

    result = preview_dataset(request)
    show_broken(result)
    if as_json:
        options.print_json(result.to_json())
    else:
        click.echo(preview_text(result))
    sys.exit(options.INCOMPLETE if result.broken else options.DONE)


def print_status(folder: Place, *, list_items: bool, as_json: bool) -> NoReturn:
    """Print how far a dataset is, and exit with the code that says it."""
    from flows.terminal.datasets import show_failures, status_document, status_text
    from pipeline.dataset.status import read_dataset_status

    status = read_dataset_status(folder)
    show_failures(status)
    if as_json:
        options.print_json(status_document(status, list_items=list_items))
    else:
        click.echo(status_text(status, list_items=list_items))
    sys.exit(options.DONE if status.complete else options.INCOMPLETE)
