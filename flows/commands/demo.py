"""The demonstration on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flows.terminal import options
from pipeline.compute.request import WorkersRequest


@click.command()
@click.argument("folder", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@options.cluster_options
@options.json_option
@options.reported
def demo(folder: Path, as_json: bool, **workers: Any) -> None:
    """Show the main job on shipped photographs.

    The photographs are reduced by four into DIR. The Prefect flow then upscales them on local
    workers, scores them against the originals, exports them, and writes a report.
    """
    from flows.demo.demo import run_demo
    from flows.terminal.demo_summary import demo_summary

    request = WorkersRequest(**workers)
    request.cluster_settings()
    result = run_demo(folder, request, before_flow=_tell_of_the_wait)
    if as_json:
        options.print_json(result.document)
    else:
        click.echo(demo_summary(result))
    sys.exit(options.DONE if result.complete else options.INCOMPLETE)


def _tell_of_the_wait() -> None:
    click.echo("starting a temporary Prefect server and the workers", err=True)
