"""Export: from finished items of an SR archive to picture files, tree and metadata kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.cluster import Stop, submit_windowed
from pipeline.errors import ArchiveError, UsageError
from pipeline.geometry import Rect, Span
from pipeline.images import EXTENSIONS, Picture, write_picture
from pipeline.ingest import metadata_of
from pipeline.status import Failure, JobStatus
from pipeline.storage.access import EVERYONE, make_folder, readers
from pipeline.storage.archive import Archive
from pipeline.wanted import sr_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.cluster import Client
    from pipeline.job import Job
    from pipeline.storage.ledger import ItemRow

SAME = "same"
FORMATS = ("png", "tiff", "jpeg", "webp")
_SUFFIX = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, slots=True)
class ExportTask:
    """One item to write as a file."""

    row: ItemRow
    sr_dir: Path
    path: Path
    format: str
    readers: int = EVERYONE
    """Who may read the file, as `storage.access` says it."""
    folder_readers: int = EVERYONE
    """Who may look into its folder, where that is made."""


def file_names(items: Iterable[str], *, format: str) -> dict[str, str]:
    """Return item -> relative file name in `format`; no two items share a name.

    The extension is replaced, unless that would make two names one: then those whose extension
    changes keep theirs in front of the new one (``a.png`` and ``a.jpg`` become ``a.png`` and
    ``a.jpg.png``), as often as it takes.
    """
    items = list(items)
    wanted = {item: _renamed(item, format) for item in items}
    shared = Counter(wanted.values())
    names = {item: name for item, name in wanted.items() if shared[name] == 1 or name == item}
    taken = set(names.values())
    for item in sorted(set(items) - set(names)):
        name = item + _SUFFIX[format]
        while name in taken:
            name += _SUFFIX[format]
        names[item] = name
        taken.add(name)
    return names


def plan_export(
    job: Job,
    status: JobStatus,
    *,
    rows: Iterable[ItemRow],
    out_dir: Path,
    format: str,
) -> tuple[list[ExportTask], list[Failure]]:
    """Return a task for each finished item of `rows`, and a failure for each that is not.

    Raises:
        UsageError: if the format is unknown, or a file would take the place of one that an item
            came from.
    """
    if format not in (SAME, *FORMATS):
        raise UsageError(f"format is {format!r}, expected {SAME}, {', '.join(FORMATS)}")
    by_item = {row.item: row for row in rows}
    ready = [by_item[c.item] for c in status.counts if status.item_state(c) == "done"]
    formats, failures = _formats(ready, job.open_sr(), format)
    names: dict[str, str] = {}
    for one in set(formats.values()):
        names |= file_names((i for i in formats if formats[i] == one), format=one)
    tasks = [
        _open_to_no_more(
            ExportTask(by_item[i], job.sr_dir, _inside(out_dir, names[i]), formats[i]), job
        )
        for i in formats
    ]
    _check_spares(tasks, (row.source for row in by_item.values()))
    unready = [
        Failure(c.item, None, "NotDone", f"{c.done} of {c.units} tiles are done; not exported")
        for c in status.counts
        if status.item_state(c) in ("failed", "pending")
    ]
    return tasks, failures + unready


def _open_to_no_more(task: ExportTask, job: Job) -> ExportTask:
    """Return the task for those who may read its source, or the job where that is gone."""
    source, folder = Path(task.row.source), task.path.parent
    if not task.row.source or not source.exists():
        return replace(task, readers=job.readers, folder_readers=job.readers)
    return replace(
        task,
        readers=readers([source], near=folder),
        folder_readers=readers([source.parent], near=folder),
    )


def _formats(
    rows: Iterable[ItemRow], sr: Archive, format: str
) -> tuple[dict[str, str], list[Failure]]:
    """Return the format of each item, and a failure for each whose own cannot be read."""
    formats: dict[str, str] = {}
    failures = []
    for row in rows:
        try:
            own = sr_image(sr, row).provenance["format"] if format == SAME else format
            formats[row.item] = own
        except ArchiveError as error:
            failures.append(Failure(row.item, None, type(error).__name__, str(error)))
    return formats, failures


def check_apart(out_dir: Path, *, src: str, job_dir: Path) -> None:
    """Refuse to export into the source: the next run would upscale what this one wrote.

    Inside the job is right, as jobs are never read as sources.

    Raises:
        UsageError: if `out_dir` is the folder `src` or lies in it, and not in the job.
    """
    out, source, job = out_dir.resolve(), Path(src).resolve(), job_dir.resolve()
    inside_source = source.is_dir() and out.is_relative_to(source)
    if inside_source and not out.is_relative_to(job):
        raise UsageError(
            f"--export {out_dir} lies in the source {src}, so the next run would upscale what this "
            "one writes; name a folder outside of it"
        )


def export_item(task: ExportTask) -> str:
    """Write one item as a file, in one piece; return the path.

    Raises:
        PictureError: if the format cannot hold the picture.
        ArchiveError: if a chunk of it is damaged.
    """
    image = sr_image(Archive.open(task.sr_dir), task.row)
    whole = Rect(Span(0, image.size[0]), Span(0, image.size[1]))
    make_folder(task.path.parent, task.folder_readers)
    picture = Picture(pixels=image.read(whole), metadata=metadata_of(image.provenance))
    write_picture(task.path, picture, format=task.format, readers=task.readers)
    return str(task.path)


def run_export(
    job: Job,
    status: JobStatus,
    *,
    rows: Iterable[ItemRow],
    out_dir: Path,
    format: str,
    client: Client,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[int, list[Failure]]:
    """Write every finished item below `out_dir`; return how many, and what was not written."""
    tasks, failures = plan_export(job, status, rows=rows, out_dir=out_dir.absolute(), format=format)
    written = 0
    for n, outcome in enumerate(submit_windowed(client, export_item, tasks, stop=stop), 1):
        if outcome.error is None:
            written += 1
        else:
            error = outcome.error
            failures.append(Failure(outcome.task.row.item, None, type(error).__name__, str(error)))
        report(n, len(tasks))
    return written, sorted(failures, key=lambda failure: failure.item)


def _renamed(item: str, format: str) -> str:
    path = PurePosixPath(item)
    if EXTENSIONS.get(path.suffix.lower()) == format:
        return item
    known = path.suffix.lower() in EXTENSIONS
    return str(path.with_suffix(_SUFFIX[format])) if known else item + _SUFFIX[format]


def _check_spares(tasks: Iterable[ExportTask], sources: Iterable[str]) -> None:
    """Refuse to write over an original, whichever item's it is and whatever became of it."""
    originals = {Path(source).resolve() for source in sources if source}
    for task in tasks:
        if task.path.resolve() in originals:
            raise UsageError(
                f"export would put {task.path} in the place of an original; name another folder"
            )


def _inside(out_dir: Path, name: str) -> Path:
    """Return the path of `name` below `out_dir`; refuse one that leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise UsageError(
            f"item {name!r} leads out of {out_dir}; its archive was made by other means"
        )
    return out_dir.joinpath(*parts)
