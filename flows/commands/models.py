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
    """List the models, or show everything about one.

    Some come with weights. The others are recipes that `upres train` trains.
    """
    from flows.terminal.model_table import model_sheet, model_table
    from pipeline.training import catalogue

    if name is not None:
        entry = catalogue.describe_model(name)
        document: Any = entry.to_json()
        text = model_sheet(entry)
    else:
        entries = catalogue.list_models()
        document, text = [entry.to_json() for entry in entries], model_table(entries)
    if as_json:
        options.print_json(document)
    else:
        click.echo(text)
