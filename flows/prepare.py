"""What `upres prepare` starts: pictures in, a dataset of patches out."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flows.terminal import options
from flows.terminal.failures import failure_lines
from flows.terminal.printing import visible
from flows.terminal.progress import counted
from pipeline.compute.cluster import connect
from pipeline.compute.outcomes import Failure
from pipeline.dataset.export import run_dataset_export
from pipeline.dataset.licences import check_named, licence_of, read_licences
from pipeline.dataset.originals import Original, list_originals
from pipeline.dataset.prepare import (
    DEFAULT_LIMIT_S,
    Ledgers,
    Preparation,
    dataset_spec,
    foreign_chunks,
)
from pipeline.dataset.splits import assign_splits, check_split, with_lists_read
from pipeline.errors import LedgerError, UsageError
from pipeline.jobs.status import read_status
from pipeline.recipes.files import recipe_names
from pipeline.recipes.preparing import PrepareRecipe, load_prepare_recipe, says_colour
from pipeline.reports.dataset_report import write_dataset_report
from pipeline.reports.patch_preview import EXAMPLES, preview
from pipeline.sources.overlap import check_made_apart
from pipeline.storage.access import close_to, readers
from pipeline.storage.atomic import write_atomic
from pipeline.storage.dataset import Dataset, check_place, is_dataset
from pipeline.storage.ledger import INGESTED, VANISHED, Ledger
from pipeline.storage.locks import hold, hold_to_read, lock_and_ledger_beside
from pipeline.storage.own_files import check_own, is_dataset_report, is_signed_png, signed_png
from pipeline.tables import idle_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.compute.cluster import ClusterSettings, Stop
    from pipeline.sources.listing import Listing

PICTURES, CHUNKS = "pictures", "chunks"
"""What the two ledgers of a dataset are called in their database."""

UNCHECKED = "unchecked_pairs"
"""Key of what a dataset says of itself: its LR files were taken by their names alone."""

_INTERRUPTED = "\ninterrupted; the same command continues"
_NO_PATCH = "\nno patch was made; prepare other pictures, or loosen what leaves patches out"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    """What is to be prepared from what, and how."""

    source: str
    dataset_dir: Path
    recipe: PrepareRecipe
    pairs: Mapping[str, str]
    licences: Mapping[str, str]
    names: str = ""
    """Encoding of names in a zip or tar that do not say theirs."""

    @classmethod
    def of(
        cls,
        source: str,
        dataset_dir: Path,
        *,
        recipe: str | None,
        settings: Iterable[str],
        lr_sources: Iterable[str],
        licence: str | None,
        names: str = "",
    ) -> PrepareRequest:
        """Read what was given on the command line; a dataset that is there has its own recipe.

        Raises:
            RecipeError, UsageError: if something cannot be.
        """
        pairs = _pairs(lr_sources)
        found = _recipe(recipe, dataset_dir, settings)
        lacking = [name for name in found.pairs if name not in pairs]
        if lacking:
            raise UsageError(
                f"recipe {found.name} takes the LR version {lacking[0]!r} from files; say where "
                f"they are with --lr {lacking[0]}=SRC"
            )
        found = replace(found, split=with_lists_read(found.split))
        check_split(found.split, group=found.group)
        return cls(
            source=source,
            dataset_dir=dataset_dir,
            recipe=found.paired(pairs) if pairs else found,
            pairs=pairs,
            licences=read_licences(licence),
            names=names,
        )

    def originals(self) -> Listing[Original]:
        """List the pictures, with their LR versions.

        Raises:
            SourceError: if there is nothing at a source.
        """
        return list_originals(self.source, self.pairs, scale=self.recipe.scale, names=self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """How a run prepares; none of it decides what a patch holds."""

    check: bool = False
    """Whether what is there is read back, and made anew where it is damaged."""
    prune: bool = False
    """Whether patches of pictures that are gone from the source are taken out."""
    unchecked: bool = False
    """Whether LR files are taken whatever they show; a dataset remembers it."""
    limit_s: float = DEFAULT_LIMIT_S


def run_prepare(
    request: PrepareRequest, cluster: ClusterSettings, *, stop: Stop, how: PrepareOptions
) -> tuple[dict[str, Any], str, int]:
    """Prepare a dataset; return what became of it as JSON and as text, and the exit code."""
    recipe = request.recipe
    lock, ledger_path = lock_and_ledger_beside(request.dataset_dir)
    place = request.dataset_dir.resolve()
    check_apart(request.source, place, request.pairs.values())
    check_place(place)
    _check_unchecked(request, how.unchecked)
    for line in idle_values(recipe):
        click.echo(visible(line), err=True)
    originals = request.originals()
    items = [original.item for original in originals]
    check_named(items, request.licences)
    _tell_unlicensed(items, request.licences)
    with (
        hold(lock, place, "upres prepare"),
        closing(Ledger.open_file(ledger_path, job=PICTURES)) as pictures,
        closing(Ledger.open_file(ledger_path, job=CHUNKS)) as chunks,
    ):
        if not is_dataset(place):
            # What is told there is of a dataset that was deleted.
            pictures.forget_all()
            chunks.forget_all()
        dataset = Dataset.open_or_create(place, dataset_spec(recipe))
        allowed = readers(_addresses(originals), near=place)
        close_to(place, allowed)
        pictures.close_to(allowed)
        unchecked = how.unchecked or bool(dataset.about.get(UNCHECKED))
        if unchecked and not dataset.about.get(UNCHECKED):
            dataset.describe({**dataset.about, UNCHECKED: True})
        ledgers = Ledgers(pictures=pictures, chunks=chunks)
        with connect(cluster) as client:
            preparation = Preparation(
                dataset,
                recipe,
                ledgers=ledgers,
                client=client,
                run=uuid.uuid4().hex[:12],
                stop=stop,
                limit_s=how.limit_s,
            )
            with counted("survey", "pictures") as report:
                surveyed = preparation.survey(
                    request.source,
                    originals,
                    request.licences,
                    report,
                    prune=how.prune,
                    unchecked=unchecked,
                )
            with counted("prepare", "chunks") as report:
                preparation.compute(originals, partial(_tell, report), check=how.check)
        written_out = PrepareRecipe.from_json(dataset.spec.recipe)
        dataset.put_about("recipe.toml", written_out.to_toml().encode())
        dataset.describe({**dataset.about, "statistics": dataset.statistics()})
        path = write_dataset_report(dataset, absent=_absent(pictures))
        told = _told(dataset, ledgers)
    document = told.document | {
        "computed_units": preparation.computed,
        "left_out": dict(Counter(told.document["left_out"]) + preparation.unplaced),
        "files_left_out": originals.left_out.to_json(),
        "remarks": originals.remarks(),
        "report": str(path),
    }
    if stop.requested and not (surveyed and told.made):
        return document, _text(document) + _INTERRUPTED, options.INTERRUPTED
    if not any(document["patches"].values()):
        return document, _text(document) + _NO_PATCH, options.FAILED
    return document, _text(document), told.code


def report_dataset(folder: Path, *, out: Path | None = None) -> Path:
    """Write the report of a dataset into it, or to a file; return where it is.

    Raises:
        UsageError: if nothing can be written there.
    """
    dataset = Dataset.open(folder)
    if out is not None:
        check_own(out, is_dataset_report)
    _, path = lock_and_ledger_beside(folder)
    absent: list[tuple[str, str]] = []
    if path.exists():
        with (
            closing(Ledger.open_file(path, job=PICTURES, read_only=True)) as pictures,
            closing(Ledger.open_file(path, job=CHUNKS, read_only=True)) as chunks,
        ):
            _check_own(dataset, chunks, path)
            absent = _absent(pictures)
    try:
        return write_dataset_report(dataset, absent=absent, path=out)
    except OSError as error:
        place = out or folder
        raise UsageError(
            f"no report can be written to {place} ({error.strerror or error}); name a file with "
            "--out"
        ) from error


def _check_own(dataset: Dataset, chunks: Ledger, path: Path) -> None:
    """Refuse a ledger that tells of chunks which the dataset does not have.

    Raises:
        LedgerError: if it does: it is that of a dataset that was here before.
    """
    foreign = foreign_chunks(dataset, chunks)
    if foreign:
        raise LedgerError(
            f"{path} tells of {foreign[0]}, but {dataset.path} has {dataset.chunks} chunks: it is "
            "that of another dataset; run `upres prepare` again, which mends it"
        )


def _absent(pictures: Ledger) -> list[tuple[str, str]]:
    """Return the pictures that are not in the dataset, or not in the source, with the reason."""
    rows = [row for row in pictures.items() if row.state != INGESTED]
    gone = "gone from the source; its patches stay until --prune"
    return [(row.item, gone if row.state == VANISHED else row.message) for row in rows]


def check_apart(source: str, place: Path, lr_sources: Iterable[str] = ()) -> None:
    """Refuse a dataset among its own pictures: its files would be taken for some of them.

    Raises:
        UsageError: if `place` is, or is in, what is read at `source` or one of `lr_sources`.
    """
    for src in (source, *lr_sources):
        check_made_apart(place, src=src, what="dataset")


def dataset_status(folder: Path, *, list_items: bool) -> tuple[dict[str, Any], str, int]:
    """Return how far a dataset is as JSON and as text, and the exit code."""
    dataset = Dataset.open(folder.resolve())
    _, path = lock_and_ledger_beside(folder)
    if not path.exists():
        raise LedgerError(f"{path} is missing; run `upres prepare` again, which makes it anew")
    with (
        closing(Ledger.open_file(path, job=PICTURES, read_only=True)) as pictures,
        closing(Ledger.open_file(path, job=CHUNKS, read_only=True)) as chunks,
    ):
        _check_own(dataset, chunks, path)
        told = _told(dataset, Ledgers(pictures=pictures, chunks=chunks))
        items = pictures.items() if list_items else []
    document, text = dict(told.document), _text(told.document)
    if list_items:
        document["by_item"] = [{"item": row.item, "state": row.state} for row in items]
        text = "\n".join([*(f"{row.state:9} {visible(row.item)}" for row in items), text])
    return document, text, told.code


def export_dataset(
    folder: Path, out_dir: Path, cluster: ClusterSettings, *, overwrite: bool, stop: Stop
) -> tuple[int, list[Failure]]:
    """Write the patches of a dataset as files; return how many, and what was not written."""
    lock, _ = lock_and_ledger_beside(folder)
    with (
        hold_to_read(lock, folder.resolve(), "upres export"),
        connect(cluster) as client,
        counted("export", "patches") as report,
    ):
        return run_dataset_export(
            folder.resolve(),
            out_dir=out_dir,
            client=client,
            overwrite=overwrite,
            stop=stop,
            report=report,
        )


def preview_dataset(
    request: PrepareRequest, *, unchecked: bool = False
) -> tuple[dict[str, Any], str, int]:
    """Draw a contact sheet beside the dataset that would be; return JSON, text, exit code."""
    check_apart(request.source, request.dataset_dir.resolve(), request.pairs.values())
    recipe = request.recipe
    place = request.dataset_dir.resolve()
    path = place.with_name(f"{place.name}.preview.png")
    check_own(path, is_signed_png)
    originals = request.originals()
    # For its errors: what the pictures give is not known yet.
    items = [original.item for original in originals]
    assign_splits(items, recipe.split, seed=recipe.seed, before={}, group=recipe.group)
    _check_unchecked(request, unchecked)
    sheet, broken = preview(originals, request.recipe, unchecked=unchecked)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, signed_png(sheet), readers=readers(_addresses(originals), near=path))
    _tell_failures([f"{item}: {reason}" for item, reason in broken.items()])
    for remark in originals.remarks():
        click.echo(visible(remark), err=True)
    document = {
        "preview": str(path),
        "failures": [{"item": item, "message": reason} for item, reason in broken.items()],
        "files_left_out": originals.left_out.to_json(),
    }
    text = f"{visible(str(path))}: {EXAMPLES} patches of a few of {len(originals)} pictures"
    return document, text, options.INCOMPLETE if broken else options.DONE


def _addresses(originals: Iterable[Original]) -> Iterator[str]:
    """Yield where the pictures are, and their LR versions: an item of an archive has its folder."""
    for original in originals:
        yield str(original.archive_dir or original.address)
        yield from (file.address for file in original.lr.values())


def _tell_unlicensed(items: Sequence[str], licences: Mapping[str, str]) -> None:
    """Say which pictures a list of licences leaves out: a mistyped name would be among them."""
    bare = [item for item in items if not licence_of(item, licences)]
    if licences and bare:
        click.echo(
            f"no licence for {len(bare)} of {len(items)} pictures, such as {visible(bare[0])}",
            err=True,
        )


def _tell(report: Any, done: int, failed: int, planned: int) -> None:
    report(done + failed, planned)


def _recipe(name: str | None, dataset_dir: Path, settings: Iterable[str]) -> PrepareRecipe:
    if name is not None:
        return _with_colour_of(dataset_dir, name, list(settings))
    if not is_dataset(dataset_dir):
        raise UsageError(
            f"{dataset_dir} is no dataset yet; say how to prepare it with --recipe, a file or one "
            f"of {', '.join(recipe_names())}"
        )
    if list(settings):
        raise UsageError("--set goes with --recipe; a dataset's own recipe stays as it is")
    return PrepareRecipe.from_json(Dataset.open(dataset_dir).spec.recipe)


def _with_colour_of(dataset_dir: Path, name: str, settings: list[str]) -> PrepareRecipe:
    """Return a recipe; where it does not say what becomes of colours, a dataset's own way stays."""
    found = load_prepare_recipe(name, settings=settings)
    if not is_dataset(dataset_dir) or says_colour(name, settings):
        return found
    there = PrepareRecipe.from_json(Dataset.open(dataset_dir).spec.recipe)
    return replace(found, colour=there.colour)


def _check_unchecked(request: PrepareRequest, unchecked: bool) -> None:
    if unchecked and not request.pairs:
        raise UsageError("--unchecked goes with --lr: nothing else is compared; leave it out")


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, source = text.partition("=")
        if not (name and sign and source):
            raise UsageError(
                f"--lr is {text!r}, expected NAME=SRC such as bicubic=DIV2K/LR_bicubic/X4"
            )
        if name in found:
            raise UsageError(f"--lr names {name!r} twice; give each LR version one source")
        found[name] = source
    return found


@dataclass(frozen=True, slots=True)
class _Told:
    """What ledgers and manifests tell of a dataset, and the exit code that says it."""

    document: dict[str, Any]
    code: int
    made: bool
    """Whether every chunk that was planned is made."""


def _told(dataset: Dataset, ledgers: Ledgers) -> _Told:
    status = read_status(dataset.path, ledgers.pictures, upscales=False)
    made = read_status(dataset.path, ledgers.chunks)
    document, chunks = status.to_json(), made.to_json()
    document["units"] = chunks["units"]
    document["failures"] += [{**failure, "tile": None} for failure in chunks["failures"]]
    left_out: Counter[str] = Counter()
    for manifest in dataset.manifests():
        for origin in manifest.origins:
            left_out.update(origin.left_out)
    statistics = dataset.statistics()
    document["patches"] = {split: found["patches"] for split, found in statistics.items()}
    document["left_out"] = dict(sorted(left_out.items()))
    colours = {o.item: o.colour for m in dataset.manifests() for o in m.origins if o.colour}
    document["colours"] = dict(sorted(Counter(colours.values()).items()))
    complete = status.complete and made.complete
    document["lr_versions"] = list(dataset.spec.degradations)
    return _Told(document, options.DONE if complete else options.INCOMPLETE, made.complete)


def _text(document: Mapping[str, Any]) -> str:
    lines = [
        f"{name:9} {_listed(document[key])}"
        for name, key in (("pictures", "items"), ("chunks", "units"), ("patches", "patches"))
    ]
    lines.insert(-1, f"LR        {', '.join(document['lr_versions'])}")
    if document["colours"]:
        lines.append(f"colours   {_listed(document['colours'])}")
    if document["left_out"]:
        lines.append(f"left out  {_listed(document['left_out'])}")
    if "report" in document:
        lines.append(f"report    {visible(document['report'])}")
    _tell_failures(
        failure_lines([Failure(**failure) for failure in document["failures"]]),
    )
    for remark in document.get("remarks", ()):
        click.echo(visible(remark), err=True)
    return "\n".join(lines)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "none"


def _tell_failures(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"  {line}", err=True)
