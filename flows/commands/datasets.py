"""Datasets on the command line: prepare."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.terminal import options


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
    from pipeline.compute.cluster import ClusterSettings

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
