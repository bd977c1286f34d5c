"""The result of an export as text: what was written, and what was left in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.terminal.failures import SHOWN
from flows.terminal.printing import number_of, visible

if TYPE_CHECKING:
    from pipeline.jobs.export.stage import ExportResult
    from pipeline.storage.store import Place


def print_export(exported: ExportResult, out_dir: Place) -> None:
    """Print how many files were written, and which files stay although their pictures are gone."""
    counts = [f"{number_of(exported.written, 'picture')} written below {visible(str(out_dir))}"]
    if exported.unchanged:
        counts.append(f"{exported.unchanged} unchanged")
    if exported.pruned:
        counts.append(f"{exported.pruned} pruned")
    click.echo(", ".join(counts))
    if exported.gone:
        _print_gone(exported, out_dir)


def _print_gone(exported: ExportResult, out_dir: Place) -> None:
    hint = "--prune removes those that this job wrote"
    if exported.kept:
        hint = "not pruned: changed since, not written by this job, or not to be removed"
    many = len(exported.gone)
    click.echo(
        f"gone from the source, still in {out_dir}: {many} file{'s' * (many > 1)} ({hint})",
        err=True,
    )
    for path in exported.gone[:SHOWN]:
        click.echo(f"  {visible(path)}", err=True)
    if many > SHOWN:
        click.echo(f"  and {many - SHOWN} more; --json lists them all", err=True)
