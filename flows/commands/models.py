"""Models on the command line: list them, describe one, and compare them on a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flows.terminal import options

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.store import Place


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


@click.command("try")
@click.argument("picture", type=options.LOCAL)
@click.option(
    "--out",
    type=options.FILE_PLACE,
    help="Write the page to this file.  [default: PICTURE.try.html in the current folder]",
)
@click.option(
    "--scale",
    type=click.IntRange(2, 4),
    default=4,
    show_default=True,
    help="Compare the models of this scale.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="Show this model too; may be repeated.",
)
@options.json_option
@options.reported
def try_picture(
    picture: Path, out: Place | None, scale: int, models: tuple[str, ...], as_json: bool
) -> None:
    """Show a few crops of one picture by every model, side by side.

    The result is one HTML page that loads nothing. Look at it before you upscale a whole archive.
    """
    from flows.terminal.printing import visible
    from pipeline.reports.trial import TryRequest, try_models

    trial = try_models(TryRequest(picture=picture, out=out, scale=scale, models=models))
    if as_json:
        options.print_json(trial.to_json())
    else:
        click.echo(visible(str(trial.page)))
        click.echo(visible(f"--model auto would take {trial.auto}: {trial.because}"), err=True)
