"""Datasets on the command line: prepare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from flows.terminal import options

if TYPE_CHECKING:
    from pipeline.dataset.request import PrepareRequest
    from pipeline.dataset.run import PrepareResult


@click.command()
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
    "--prune", is_flag=True, help="Remove the patches of pictures that are gone from SRC."
)
@click.option("--check", is_flag=True, help="Read every patch back, and rebuild what is damaged.")
@options.names_option
@click.option("--unchecked", is_flag=True, help="Accept LR files of --lr that show something else.")
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

    SRC is a picture, folder, glob, .zip, .tar, or an archive made by `upres ingest`. DATASET, a
    Zarr group, is created or continued: finished patches are not made again. DATASET.ledger.sqlite
    records what became of each picture.
    """
    from pipeline.compute.cluster import ClusterSettings
    from pipeline.dataset.request import PrepareRequest

    request = PrepareRequest(
        source=src,
        dataset_dir=dataset_dir,
        recipe=recipe,
        settings=settings,
        lr_sources=lr_sources,
        licence=licence,
        names=names or "",
        read_back=check,
        prune=prune,
        unchecked=unchecked,
        limit_s=limit_s,
        cluster=ClusterSettings(address=cluster, workers=workers),
    )
    if not preview:
        _prepare(request, as_json=as_json)
    elif check or prune:
        raise click.UsageError("--preview prepares nothing, so --check and --prune do nothing")
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


def print_status(folder: Path, *, list_items: bool, as_json: bool) -> NoReturn:
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
