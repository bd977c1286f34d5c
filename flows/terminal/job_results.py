"""How far a job is and what a run left behind, as lines for people or as JSON; and exit codes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from flows.terminal import options
from flows.terminal.failures import SHOWN, print_failures
from flows.terminal.printing import number_of, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.compute.outcomes import Failure
    from pipeline.compute.status import JobStatus
    from pipeline.jobs.choice import Chosen
    from pipeline.jobs.disk_use import DiskUse
    from pipeline.jobs.results import JobResult
    from pipeline.storage.ledger import Note


def end_with(result: JobResult, *, as_json: bool) -> None:
    """Print what a run left behind, and exit with the code that says how it ended."""
    if as_json:
        options.print_json(result.to_json())
    else:
        print_counts(result.status, computed_units=result.computed_units)
        if result.let_go is not None and result.let_go.items:
            click.echo(f"{number_of(result.let_go.items, 'picture')} let go in this run")
        remarks = () if result.ingestion is None else result.ingestion.remarks
        print_what_is_wrong(result.status, more=result.later_failures, remarks=remarks)
        if result.out_of_time:
            click.echo(f"time is up; left: {result.left}; repeat the command to go on", err=True)
    failed = result.failed if result.out_of_time else not result.complete
    sys.exit(exit_code(failed=failed, stopped=result.stopped))


def exit_code(*, failed: bool, stopped: bool) -> int:
    """Return the code of a command that ended without an error of its own."""
    if stopped:
        return options.INTERRUPTED
    return options.INCOMPLETE if failed else options.DONE


def status_document(
    status: JobStatus,
    runs: Sequence[dict[str, Any]],
    chosen: Mapping[str, Chosen],
    *,
    list_items: bool,
) -> dict[str, Any]:
    """Return what ``upres status --json`` prints."""
    document = status.to_json() | {"runs": list(runs)}
    if list_items:
        document["by_item"] = [
            {
                "item": count.item,
                "state": status.item_state(count),
                "done": count.done,
                "failed": count.failed,
                "pending": count.pending,
                **_model(chosen.get(count.item)),
            }
            for count in status.counts
        ]
    return document


def _model(chosen: Chosen | None) -> dict[str, str]:
    """Return the model that was chosen for an item, and why; nothing where one was named."""
    if chosen is None:
        return {}
    return {"model": chosen.spec.model, "because": chosen.because}


def print_items(status: JobStatus, chosen: Mapping[str, Chosen]) -> None:
    """Print a line for each item, with the model chosen for it and its notes below."""
    notes: dict[str, list[str]] = {}
    for note in status.notes:
        notes.setdefault(note.item, []).append(f"{'':24}{note.stage}: {note.note}")
    for count in status.counts:
        click.echo(
            f"{status.item_state(count):9} {count.done:>6}/{count.units:<6} {visible(count.item)}"
        )
        one = chosen.get(count.item)
        if one is not None:
            click.echo(visible(f"{'':24}{one.spec.model}: {one.because}"))
        for line in notes.get(count.item, ()):
            click.echo(visible(line))


def print_counts(status: JobStatus, *, computed_units: int = 0) -> None:
    """Print how many items and tiles are in each state."""
    document = status.to_json()
    for kind, name in (("items", "items"), ("units", "tiles")):
        counts = ", ".join(f"{n} {state}" for state, n in document[kind].items() if n)
        if counts:
            click.echo(f"{name:6} {counts}")
    if computed_units:
        click.echo(f"{number_of(computed_units, 'tile')} computed in this run")


def print_let_go(gone: Mapping[str, int]) -> None:
    """Print of how many pictures which pixels were let go (``--keep``), where there are any."""
    parts = [f"{archive.upper()} of {number_of(n, 'picture')}" for archive, n in gone.items()]
    if parts:
        click.echo(f"{'let go':6} {', '.join(parts)}")


def print_disk(disk: DiskUse) -> None:
    """Print what the parts of a job take, what is to come, and how much room there is."""
    parts = (("LR", disk.source), ("SR", disk.sr), ("other", disk.other))
    for number, (name, used) in enumerate(parts):
        size = f"{used.size_bytes / 1e6:,.1f} MB in {number_of(used.files, 'file')}"
        click.echo(f"{'disk' if not number else '':6} {name:5} {size}")
    coming = f"about {disk.coming_bytes / 1e6:,.1f} MB to come"
    free = "" if disk.free_bytes is None else f", {disk.free_bytes / 1e6:,.1f} MB free"
    click.echo(f"{'':6} {coming}{free}")


def print_what_is_wrong(
    status: JobStatus, *, more: Sequence[Failure] = (), remarks: Sequence[str] = ()
) -> None:
    """Print failures, then what is gone from the source, then notes."""
    from pipeline.compute.status import vanished

    print_failures([*status.failures, *more])
    _print_gone(vanished(status))
    for remark in remarks:
        click.echo(visible(remark), err=True)
    if status.notes:
        lister = f"`upres status {status.folder} --items`" if status.upscales else "--json"
        print_notes(status.notes, lister)


def print_notes(notes: Sequence[Note], lister: str) -> None:
    """Print how many notes there are, and the command that lists them."""
    items = number_of(len({note.item for note in notes}), "item")
    line = f"not kept: {number_of(len(notes), 'note')} on {items}; {lister} lists them"
    click.echo(visible(line), err=True)


def print_why_nothing_is_redone(status: JobStatus, item: str) -> None:
    """Print what to do where a rerun had nothing to compute."""
    from pipeline.sources.name_forms import selects

    items = status.items
    names = {*(count.item for count in status.counts), *(c.stack for c in status.counts if c.stack)}
    if not any(map(selects(item, lambda: names), names)):
        click.echo(f"no item matches --item {visible(item)}", err=True)
    if items["rejected"]:
        click.echo(
            "rejected files are not failed tiles: repair them, then run `upres upscale` again",
            err=True,
        )
    if items["pending"]:
        click.echo(
            f"{items['pending']} items are pending, not failed: run `upres upscale` again", err=True
        )


def _print_gone(gone: Sequence[str]) -> None:
    for item in gone[:SHOWN]:
        click.echo(
            f"  {visible(item)}: gone from the source; what was made of it is kept", err=True
        )
    if len(gone) > SHOWN:
        click.echo(f"  and {len(gone) - SHOWN} more are gone from the source", err=True)
