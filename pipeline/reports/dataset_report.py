"""The dataset's report: one page that shows what patches a dataset holds, and from what.

Here belongs what a report says of a dataset; how patches are drawn is in `contact_sheet`, and how
the page looks in its template. Pixels are read of the few patches shown, and of no others. The page
names neither times nor paths: datasets of equal bytes have reports of equal bytes.
"""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from models.bt601 import LUMA
from pipeline.dataset.ledgers import LedgerPlace
from pipeline.dataset.status import absent_pictures, open_ledgers
from pipeline.errors import StoreError, UsageError
from pipeline.reports.contact_sheet import Example, draw_sheet
from pipeline.reports.html import one_line, render
from pipeline.storage.atomic import write_atomic
from pipeline.storage.dataset import HR, LR_PREFIX, Dataset
from pipeline.storage.manifest import NO_PATCH, SPLITS
from pipeline.storage.own_files import check_own, is_dataset_report
from pipeline.storage.store import check_names_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.storage.store import Place

MAX_EXAMPLES = 8
MAX_SOURCES = 200

_REPORT = "report.html"
"""Parts of red, green and blue: ITU-R BT.601."""
_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


@dataclass(slots=True)
class Contents:
    """What the manifests say of the patches that are there."""

    pictures: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Items by split."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Patches that are not in the dataset, by reason."""
    colours: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Items by what was done about their ICC profiles."""
    sources: dict[tuple[str, str], Source] = field(default_factory=lambda: defaultdict(Source))
    """By licence and copyright."""


@dataclass(slots=True)
class Source:
    """Pictures of one licence and copyright, and how many patches come from them."""

    items: set[str] = field(default_factory=set)
    patches: int = 0


def write_dataset_report(
    dataset: Dataset, *, absent: Sequence[tuple[str, str]] = (), path: Place | None = None
) -> Place:
    """Write ``about/report.html`` of `dataset`, whole or not at all, and return where it is.

    `path` names another file.

    `absent` are pictures of the source that could not be used, or are gone, with the reason.

    Datasets of equal bytes have equal reports, wherever they are. A dataset in any state has one:
    empty, half made, or with one split alone.

    Raises:
        DatasetError: if a manifest is damaged, or a patch that is shown.
        OSError: if the page cannot be written.
    """
    page = render("dataset_report.html", _facts(dataset, absent))
    if path is None:
        return dataset.put_about(_REPORT, page)
    write_atomic(path, page)
    return path


def report_dataset(folder: Place, *, out: Place | None = None) -> Place:
    """Write the report of a dataset into it, or to the file `out`; return where it is.

    Raises:
        DatasetError: if there is no dataset, or it is damaged.
        LedgerError: if its ledger is that of another dataset.
        UsageError: if nothing can be written there.
    """
    dataset = Dataset.open(folder)
    check_names_file(out)
    if out is not None:
        check_own(out, is_dataset_report)
    absent: list[tuple[str, str]] = []
    if LedgerPlace.of(folder).exist():
        with open_ledgers(dataset) as ledgers:
            absent = absent_pictures(ledgers.pictures)
    try:
        return write_dataset_report(dataset, absent=absent, path=out)
    except StoreError:
        raise
    except OSError as error:
        place = out or folder
        raise UsageError(
            f"no report can be written to {place} ({error.strerror or error}); name a file with "
            "--out"
        ) from error


def luma_variances(sums: NDArray[np.int64], *, pixels: int) -> NDArray[np.float64]:
    """Return the variance of luma of patches ``(n,)`` in squared levels, of their moments.

    `sums` ``(n, c, 2)`` are sums and sums of squares of `pixels` values a channel. Exact for grey.
    For RGB it is the least upper bound, as moments do not give the covariances of channels. It is
    exact where the channels vary together: ``std(luma) <= sum(weight * std(channel))``.
    """
    means = sums / pixels
    variances = np.maximum(means[..., 1] - means[..., 0] ** 2, 0.0)
    channels = sums.shape[1]
    weights = np.array(LUMA if channels == len(LUMA) else (1 / channels,) * channels)
    return np.asarray((np.sqrt(variances) * weights).sum(axis=1) ** 2, dtype=np.float64)


def _facts(dataset: Dataset, absent: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return all the values of the template."""
    spec, splits = dataset.spec, dataset.splits()
    contents = _contents(dataset, splits)
    split = _shown_split(splits)
    examples = _examples(dataset, split) if split else []
    return {
        "name": one_line(str(spec.recipe.get("name") or "unnamed")),
        "spec": spec,
        "hr_size": _size(spec.hr_px),
        "lr_size": _size(spec.lr_px),
        "channels": _CHANNELS.get(spec.channels, tuple(map(str, range(spec.channels)))),
        "recipe": list(_flat(spec.recipe)),
        "patches": int(np.count_nonzero(splits != NO_PATCH)),
        "empty_rows": int(np.count_nonzero(splits == NO_PATCH)),
        "pictures": sum(map(len, contents.pictures.values())),
        "splits": [
            (name, len(contents.pictures[name]), figures)
            for name, figures in dataset.statistics().items()
        ],
        "left_out": sorted(contents.left_out.items(), key=lambda pair: (-pair[1], pair[0])),
        "colours": [(one_line(done), len(of)) for done, of in sorted(contents.colours.items())],
        "absent": [(one_line(item), one_line(reason)) for item, reason in absent[:MAX_SOURCES]],
        "absent_total": len(absent),
        "sources": _sources(contents)[:MAX_SOURCES],
        "sources_total": len(contents.sources),
        "examples_of": split,
        "examples": [example.label for example in examples],
        "sheet": _sheet(dataset, splits, examples) if examples else None,
    }


def _contents(dataset: Dataset, splits: NDArray[np.uint8]) -> Contents:
    """Read what the manifests say, of all pictures, and of the patches that are there."""
    found = Contents()
    for chunk, manifest in enumerate(dataset.manifests()):
        rows = chunk * dataset.spec.chunk_patches + manifest.places
        made = manifest.pictures[splits[rows] != NO_PATCH]
        counts = np.bincount(made, minlength=len(manifest.origins)).tolist()
        for origin, patches in zip(manifest.origins, counts, strict=True):
            found.left_out.update(origin.left_out)
            if origin.colour:
                found.colours[origin.colour].add(origin.item)
            if patches:
                found.pictures[origin.split].add(origin.item)
                source = found.sources[origin.licence, origin.copyright]
                source.items.add(origin.item)
                source.patches += patches
    return found


def _sources(contents: Contents) -> list[tuple[str, str, int, int]]:
    """Return licence, copyright, pictures and patches, those with the most patches first."""
    lines = [
        (licence, copyright, len(source.items), source.patches)
        for (licence, copyright), source in contents.sources.items()
    ]
    return sorted(lines, key=lambda line: (-line[3], line[:2]))


def _shown_split(splits: NDArray[np.uint8]) -> str | None:
    """Return the first split that has a patch: train, if it has."""
    return next((name for n, name in enumerate(SPLITS) if (splits == n).any()), None)


def _examples(dataset: Dataset, split: str) -> list[Example]:
    """Return patches from evenly spaced rows of a split that has some."""
    rows = dataset.rows(split)
    chosen = np.linspace(0, len(rows) - 1, min(MAX_EXAMPLES, len(rows))).round().astype(np.int64)
    rows = rows[chosen]
    hr = dataset.read(HR, rows)
    lr = {name: dataset.read(LR_PREFIX + name, rows) for name in dataset.spec.degradations}
    return [
        Example(hr[n], {name: pixels[n] for name, pixels in lr.items()}, _label(dataset, row))
        for n, row in enumerate(rows.tolist())
    ]


def _label(dataset: Dataset, row: int) -> str:
    """Return which picture the patch of a row was cut from, and where."""
    chunk, place = divmod(row, dataset.spec.chunk_patches)
    manifest = dataset.manifest(chunk)
    at = int(np.flatnonzero(manifest.places == place)[0])
    top, left = manifest.corners[at].tolist()
    item = one_line(manifest.origins[manifest.pictures[at]].item)
    return f"{item}, from row {top} and column {left}"


def _sheet(dataset: Dataset, splits: NDArray[np.uint8], examples: list[Example]) -> str:
    """Return the contact sheet as a `data:` URI."""
    spec = dataset.spec
    sums = dataset.measures()[splits != NO_PATCH]
    png = draw_sheet(
        examples,
        luma_variances(sums, pixels=spec.hr_px[0] * spec.hr_px[1]),
        title=f"Patches and their LR versions, ×{spec.scale}",
        least_variance=float(spec.recipe.get("least_variance") or 0.0),
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and value as words, tables inside by ``table.key``, lists of them numbered from 1.

    >>> dict(_flat({"a": 1, "b": {"c": [2, 3]}, "d": [{"e": True}]}))
    {'a': '1', 'b.c': '2, 3', 'd.1.e': 'true'}
    """
    for key, value in values.items():
        listed = isinstance(value, list | tuple)
        if listed and any(isinstance(v, Mapping) for v in value):
            yield from _flat({f"{key}.{n}": v for n, v in enumerate(value, 1)}, prefix)
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif listed:
            yield f"{prefix}{key}", ", ".join(map(_words, value)) or "none"
        else:
            yield f"{prefix}{key}", _words(value)


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None or value == {} else json.dumps(value, ensure_ascii=False)


def _size(px: tuple[int, int]) -> str:
    return f"{px[0]} × {px[1]}"
