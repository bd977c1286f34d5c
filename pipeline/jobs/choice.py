"""Choosing the model of each item, by the traces in its picture: what ``--model auto`` means.

A picture with lossy compression or noise goes to the restoring network, any other to the plain one.
What belongs here: which two networks these are, and what the ledger keeps of the choice. How traces
are found is in `pipeline.pictures.traces`, and which of them count in `pipeline.jobs.wear`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from models.checkpoint import found_from_anywhere
from models.registry import shipped
from models.strength import RESTORING, Strength, of_pair
from pipeline.errors import ArchiveError, ModelError, UsageError
from pipeline.geometry import Rect, Span
from pipeline.jobs.item_images import lr_image
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.worker import ModelAddress
from pipeline.jobs.wear import TRACES_KEY, verdict
from pipeline.pictures.traces import Traces, of_pixels
from pipeline.storage.ledger import INGESTED, TraceRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.jobs.job import Job
    from pipeline.storage.image import StoredImage
    from pipeline.storage.ledger import ItemRow, Ledger

UNKNOWN = "its picture was not examined"

_FAMILY = "span"
_AUTO = re.compile(r"auto(?:-x([24]))?(?:@([0-9.]+))?")
_LOOKED_AT_PX = 512
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Way:
    """A network that upscales items: what decides its pixels, and where workers find it."""

    spec: UpscaleSpec
    model: ModelAddress

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return {"spec": self.spec.to_json(), "model": asdict(self.model)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Way:
        """Read what `to_json` gave."""
        return cls(UpscaleSpec.from_json(values["spec"]), ModelAddress(**values["model"]))


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice of a model for each item, between that of the spec and a restoring one."""

    asked: str
    """The name that asks for it, such as ``auto``."""
    restoring: Way | None
    """None where there is no such network: then all items go to the plain one."""

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return {
            "asked": self.asked,
            "restoring": None if self.restoring is None else self.restoring.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Choice:
        """Read what `to_json` gave."""
        way = values["restoring"]
        return cls(values["asked"], None if way is None else Way.from_json(way))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model of one item, and the reason; "" where the user named one model for all."""

    spec: UpscaleSpec
    because: str = ""


@dataclass(frozen=True, slots=True)
class Chooser:
    """Says which model each item of a job is for."""

    spec: UpscaleSpec
    choice: Choice | None
    ledger: Ledger

    def of_each(self, rows: Iterable[ItemRow]) -> Iterator[tuple[ItemRow, Chosen]]:
        """Yield each item with its model, in their order."""
        if self.choice is None:
            yield from ((row, Chosen(self.spec)) for row in rows)
            return
        waiting = iter(rows)
        while batch := list(islice(waiting, _AT_ONCE)):
            known = self.ledger.traces_of(row.item for row in batch)
            for row in batch:
                yield row, self._of(known.get(row.item))

    def of_chunk(self, rows: Sequence[ItemRow]) -> Chosen:
        """Return the model of items that share a unit: that of most of them."""
        if self.choice is None or not rows:
            return Chosen(self.spec)
        known = list(self.ledger.traces_of(row.item for row in rows).values())
        worn = [seen for seen in known if seen.worn]
        clean = [seen for seen in known if not seen.worn]
        return self._of(next(iter(worn if len(worn) > len(clean) else clean), None))

    def _of(self, seen: TraceRow | None) -> Chosen:
        restoring = None if self.choice is None else self.choice.restoring
        if seen is None:
            return Chosen(self.spec, UNKNOWN)
        if not seen.worn:
            return Chosen(self.spec, seen.because)
        if restoring is None:
            return Chosen(self.spec, f"{seen.because}, but no {self.spec.model}{RESTORING} is here")
        return Chosen(restoring.spec, seen.because)


def is_auto(name: str) -> bool:
    """Return whether a name asks for a choice instead of a model."""
    return _AUTO.fullmatch(name) is not None


def with_strength(name: str, restore: float | None) -> str:
    """Return the name of a model at the strength that ``--restore`` gives.

    Raises:
        UsageError: if the model has none, or `restore` is not within 0 to 1.
    """
    if restore is None:
        return name
    try:
        if is_auto(name):
            return f"{name.partition('@')[0]}@{Strength(_FAMILY + RESTORING, restore).value:g}"
        return of_pair(name.partition("@")[0], restore, shipped()).name
    except ValueError as error:
        raise UsageError(f"--restore: {error}") from error


def candidates(name: str) -> tuple[str, str]:
    """Return the plain and the restoring model of a name, "" where there is no second one.

    Raises:
        ModelError: if the strength in the name is not within 0 to 1.
    """
    auto = _AUTO.fullmatch(name)
    if auto is None:
        return name, ""
    plain = f"{_FAMILY}-x{auto[1] or 4}"
    if plain + RESTORING not in shipped():
        return plain, ""
    try:
        restoring = Strength(plain + RESTORING, float(auto[2] or 1)).name
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
    return plain, "" if restoring == plain else restoring


def choose(
    name: str, *, device: str, make: Callable[[str], UpscaleSpec]
) -> tuple[Way, Choice | None]:
    """Return the network that `name` means, and the choice for each item, if it means one.

    `make` returns the spec of a model by its name.
    """
    plain, restoring = candidates(name)
    way = Way(make(plain), ModelAddress(name_or_file=found_from_anywhere(plain), device=device))
    if not is_auto(name):
        return way, None
    if not restoring:
        return way, Choice(name, None)
    other = Way(make(restoring), ModelAddress(name_or_file=restoring, device=device))
    return way, Choice(name, other)


def chosen_models(ledger: Ledger) -> dict[str, Chosen]:
    """Return the chosen model of each ingested item, with the reason; empty without a choice."""
    values = ledger.upscaling() or {}
    if "choice" not in values:
        return {}
    choice = Choice.from_json(values["choice"])
    chooser = Chooser(UpscaleSpec.from_json(values["spec"]), choice, ledger)
    alone: list[ItemRow] = []
    chunks: dict[tuple[str, int], list[ItemRow]] = defaultdict(list)
    for row in ledger.items(INGESTED):
        (chunks[row.stack, row.chunk] if row.stack else alone).append(row)
    chosen = {row.item: one for row, one in chooser.of_each(alone)}
    for rows in chunks.values():
        chosen |= dict.fromkeys((row.item for row in rows), chooser.of_chunk(rows))
    return chosen


def look_at_new(job: Job, ledger: Ledger) -> None:
    """Record the traces of all items that are new or whose content changed.

    Ingesting writes traces into the LR archive. For an archive of an earlier upres some pixels are
    read instead.
    """
    batch: list[TraceRow] = []
    source = job.open_source()
    for row in ledger.items_without_traces():
        try:
            worn, because = verdict(_seen(lr_image(source, row)))
        except ArchiveError:
            continue  # Its units will fail, with the reason.
        batch.append(TraceRow(item=row.item, sha256=row.sha256, worn=worn, because=because))
        if len(batch) >= _AT_ONCE:
            ledger.put_traces(batch)
            batch = []
    ledger.put_traces(batch)


def _seen(image: StoredImage) -> Traces:
    """Return the traces in an LR item, as ingested or as the pixels in its middle show them."""
    values = image.provenance.get(TRACES_KEY)
    if isinstance(values, dict):
        return Traces.from_json(values)
    rows, cols = map(_middle, image.size)
    return of_pixels(image.read(Rect(rows, cols)))


def _middle(length: int) -> Span:
    """Return the middle of a side, on the grid of 8 pixels."""
    start = max(0, length - _LOOKED_AT_PX) // 2 // 8 * 8
    return Span(start, min(length, start + _LOOKED_AT_PX))
