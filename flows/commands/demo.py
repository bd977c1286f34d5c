"""The demonstration on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.terminal import options


@click.command()
@click.argument("folder", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@options.cluster_options
@options.json_option
@options.reported
def demo(folder: Path, cluster: str, workers: int | None, as_json: bool) -> None:
    """Show the main job on shipped photographs.

    They are reduced by four into DIR, upscaled again through the Prefect flow on local workers,
    scored against the originals, exported, and reported.
    """
    from flows.demo.demo import run_demo
    from pipeline.compute.cluster import ClusterSettings

    result = run_demo(folder, ClusterSettings(address=cluster, workers=workers))
    if as_json:
        options.print_json(result.document)
    else:
        click.echo(result.text)
    sys.exit(options.DONE if result.complete else options.INCOMPLETE)
