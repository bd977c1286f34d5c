"""The command line. Heavy imports live inside the commands, so that help answers at once."""

from __future__ import annotations

import click

from flows.commands.datasets import prepare
from flows.commands.demo import demo
from flows.commands.jobs import ingest, rerun, status, upscale
from flows.commands.models import models, try_picture
from flows.commands.results import export, report, score
from flows.commands.services import notify, schedule, serve
from flows.commands.training import evaluate, train
from flows.terminal import options


@click.group(
    cls=options.OneLineErrors,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        # Or click would take an escape in a name away, which must be seen.
        "color": True,
    },
)
@click.version_option(package_name="upres")
def main() -> None:
    """Upscale whole image archives: tiles, scores, resume, rerun.

    Exit codes: 0 everything done; 1 the command failed; 2 wrong usage; 3 finished, but some items
    or tiles failed (each listed with its reason); 130 interrupted.
    """


for command in (
    demo, ingest, upscale, status, rerun, score, report, export, evaluate, prepare, train, models,
    try_picture, schedule, serve, notify,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
