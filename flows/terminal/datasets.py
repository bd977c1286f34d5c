"""Datasets as text: how far one is, the result of a run, and a preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flows.terminal.failures import print_failures
from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.dataset.run import PrepareResult
    from pipeline.dataset.status import DatasetStatus
    from pipeline.reports.patch_preview import PreviewResult

_INTERRUPTED = "interrupted; repeat the command to continue"
NO_PATCH = "no patch was made; prepare other pictures, or loosen what leaves patches out"


def status_document(status: DatasetStatus, *, list_items: bool) -> dict[str, Any]:
    """Return how far a dataset is as JSON, with the state of each picture where that is asked."""
    document = status.to_json()
    if list_items:
        document["by_item"] = [
            {"item": count.item, "state": count.state} for count in status.pictures.counts
        ]
    return document


def status_text(status: DatasetStatus, *, list_items: bool) -> str:
    """Return how far a dataset is as lines."""
    counts = status.pictures.counts if list_items else ()
    items = [f"{count.state:9} {visible(count.item)}" for count in counts]
    return "\n".join([*items, *_count_lines(status.to_json())])


def result_text(result: PrepareResult) -> str:
    """Return the result of a run on a dataset as text."""
    lines = [*_count_lines(result.to_json()), f"report    {visible(str(result.report))}"]
    if result.interrupted:
        lines.append(_INTERRUPTED)
    elif not result.has_patches:
        lines.append(NO_PATCH)
    return "\n".join(lines)


def preview_text(result: PreviewResult) -> str:
    """Return where a preview is and what is on it, as a line."""
    path = visible(str(result.path))
    return f"{path}: {result.patches} patches of a few of {result.pictures} pictures"


def show_failures(status: DatasetStatus, remarks: Iterable[str] = ()) -> None:
    """Show on stderr what failed, then remarks."""
    print_failures(status.failures)
    _show(remarks)


def show_broken(result: PreviewResult) -> None:
    """Show on stderr which pictures could not be used for a preview, then remarks."""
    _show(f"  {item}: {reason}" for item, reason in result.broken.items())
    _show(result.remarks)


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(visible(line), err=True)


def _count_lines(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"pictures  {_listed(document['items'])}",
        f"chunks    {_listed(document['units'])}",
        f"LR        {', '.join(document['lr_versions'])}",
        f"patches   {_listed(document['patches'])}",
    ]
    if document["colours"]:
        lines.append(f"colours   {_listed(document['colours'])}")
    if document["left_out"]:
        lines.append(f"left out  {_listed(document['left_out'])}")
    return lines


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"
