"""Models on the command line: which there are, and what is known of one."""

from __future__ import annotations

from typing import Any

import click

from flows.terminal import options


@click.command()
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
