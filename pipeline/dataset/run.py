"""One run that prepares a dataset, from the request to what became of it.

What belongs here: the order of things, and what is held and open meanwhile. How patches are placed
and made is in `pipeline.dataset.prepare`.
"""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.compute.cluster import connect
from pipeline.compute.listener import Listener
from pipeline.compute.metrics import seconds_of
from pipeline.dataset.licences import check_named, licence_of
from pipeline.dataset.prepare import Preparation, dataset_spec
from pipeline.dataset.status import DatasetStatus, absent_pictures
from pipeline.recipes.preparing import PrepareRecipe
from pipeline.storage.access import close_to, readers
from pipeline.storage.dataset import Dataset, check_place, is_dataset
from pipeline.tables import idle_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.compute.stop import Stop
    from pipeline.dataset.ledgers import Ledgers
    from pipeline.dataset.originals import Original
    from pipeline.dataset.request import PrepareRequest
    from pipeline.sources.left_out import LeftOut
    from pipeline.sources.listing import Listing
    from pipeline.storage.store import Place

UNCHECKED = "unchecked_pairs"
"""Key of what a dataset says of itself: its LR files were taken by their names alone."""


class WriteReport(Protocol):
    """Writes the report of a dataset into it, and returns where; `reports` is a room above."""

    def __call__(self, dataset: Dataset, *, absent: Sequence[tuple[str, str]]) -> Place:
        """Write it; `absent` are pictures that are not in the dataset, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareResult:
    """What became of a dataset in one run."""

    status: DatasetStatus
    computed: int
    """Chunks made in this run."""
    left_out: Mapping[str, int]
    """Patches that are not in the dataset, by reason; also of pictures that gave none at all."""
    files_left_out: LeftOut
    remarks: Sequence[str]
    """On the listing of the source as a whole."""
    report: Place
    interrupted: bool
    """Whether a stop came before all was done."""

    @property
    def has_patches(self) -> bool:
        """Return whether there is any patch."""
        return any(self.status.patches.values())

    def to_json(self) -> dict[str, Any]:
        """Return the document that `upres prepare` prints."""
        return self.status.to_json() | {
            "computed_units": self.computed,
            "left_out": dict(self.left_out),
            "files_left_out": self.files_left_out.to_json(),
            "remarks": list(self.remarks),
            "report": str(self.report),
        }


def prepare_dataset(
    request: PrepareRequest,
    *,
    stop: Stop,
    write_report: WriteReport,
    listener: Listener | None = None,
) -> PrepareResult:
    """Prepare a dataset, or go on with it; what is there already is not made again.

    Raises:
        UsageError, RecipeError, SourceError, DatasetError: if nothing can be prepared as asked.
        JobBusyError: if another process prepares or reads it.
    """
    listener = listener or Listener()
    request.check()
    recipe, licences = request.load_recipe(), request.load_licences()
    check_place(request.place)
    for line in idle_values(recipe):
        listener.remark(line)
    originals = _originals(request, recipe, licences, listener)
    with _opened(request, recipe, originals) as (dataset, ledgers):
        with connect(request.cluster_settings()) as client, seconds_of(client, "prepare"):
            preparation = Preparation(
                dataset,
                recipe,
                ledgers=ledgers,
                client=client,
                run=uuid.uuid4().hex[:12],
                stop=stop,
                limit_s=request.limit_s,
            )
            surveyed = _compute(preparation, request, originals, licences, listener)
        _describe(dataset)
        report = write_report(dataset, absent=absent_pictures(ledgers.pictures))
        status = DatasetStatus.of(dataset, ledgers)
    return PrepareResult(
        status=status,
        computed=preparation.computed,
        left_out=dict(Counter(status.left_out) + preparation.unplaced),
        files_left_out=originals.left_out,
        remarks=originals.remarks(),
        report=report,
        interrupted=stop.requested and not (surveyed and status.chunks.complete),
    )


def addresses(originals: Sequence[Original]) -> Iterator[str]:
    """Yield where the pictures are, and their LR versions: an item of an archive has its folder."""
    for original in originals:
        yield str(original.archive_dir or original.address)
        yield from (file.address for file in original.lr.values())


def _originals(
    request: PrepareRequest,
    recipe: PrepareRecipe,
    licences: Mapping[str, str],
    listener: Listener,
) -> Listing[Original]:
    """List the pictures; remark on those that a list of licences leaves out.

    Raises:
        SourceError: if there is nothing at a source.
        UsageError: if the list names none of the pictures.
    """
    originals = request.list_originals(scale=recipe.scale)
    items = [original.item for original in originals]
    check_named(items, licences)
    bare = [item for item in items if not licence_of(item, licences)]
    if licences and bare:
        # A mistyped name would be among them.
        listener.remark(f"no licence for {len(bare)} of {len(items)} pictures, such as {bare[0]}")
    return originals


@contextmanager
def _opened(
    request: PrepareRequest, recipe: PrepareRecipe, originals: Listing[Original]
) -> Iterator[tuple[Dataset, Ledgers]]:
    """Hold and open a dataset and its ledgers, closed to those who may not read the pictures."""
    place, where = request.place, request.ledger_place()
    with where.hold("upres prepare"), where.opened() as ledgers:
        if not is_dataset(place):
            # What they say is of a dataset that was deleted.
            ledgers.pictures.forget_all()
            ledgers.chunks.forget_all()
        dataset = Dataset.open_or_create(place, dataset_spec(recipe))
        where.remember()
        allowed = readers(addresses(originals), near=place)
        close_to(place, allowed)
        ledgers.pictures.close_to(allowed)
        if request.unchecked and not dataset.about.get(UNCHECKED):
            dataset.describe({**dataset.about, UNCHECKED: True})
        yield dataset, ledgers


def _compute(
    preparation: Preparation,
    request: PrepareRequest,
    originals: Listing[Original],
    licences: Mapping[str, str],
    listener: Listener,
) -> bool:
    """Survey the pictures and make what is missing; return whether the survey was finished."""
    with listener.counting("survey", "pictures") as count:
        surveyed = preparation.survey(
            request.src,
            originals,
            licences,
            count,
            prune=request.prune,
            unchecked=bool(preparation.dataset.about.get(UNCHECKED)),
        )
    with listener.counting("prepare", "chunks") as count:
        preparation.compute(originals, _of_finished(count), check=request.read_back)
    return surveyed


def _of_finished(count: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    """Return what hears of chunks done, failed and planned, and counts the first two."""
    return lambda done, failed, planned: count(done + failed, planned)


def _describe(dataset: Dataset) -> None:
    """Write into a dataset by which recipe it was made, and its statistics."""
    recipe = PrepareRecipe.from_json(dataset.spec.recipe)
    dataset.put_about("recipe.toml", recipe.to_toml().encode())
    dataset.describe({**dataset.about, "statistics": dataset.statistics()})
