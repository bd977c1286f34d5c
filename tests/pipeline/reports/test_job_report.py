"""The report: what it tells of a job in every state, and what its pictures and maps show."""

from __future__ import annotations

import base64
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Rect, Span, TileGrid
from pipeline.jobs.job import Job, create_job
from pipeline.jobs.overview import overview
from pipeline.pictures.files import read_picture
from pipeline.reports import job_report as report
from pipeline.reports import portraits
from pipeline.reports.job_report import write_report
from pipeline.reports.tile_maps import AGREEMENT, GAIN, Figures, TileState, tile_map
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout
from pipeline.storage.ledger import (
    DONE,
    FAILED,
    INGESTED,
    REJECTED,
    VANISHED,
    ItemRow,
    ScoreRow,
    UnitRow,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SCALE, TILE_PX = 2, 16
NASTY = "<script>alert(1)</script>.png"


@dataclass(frozen=True)
class Spec:
    model: str = "span-x2"
    weights_sha256: str = "abcdef0123456789"
    scale: int = SCALE
    tile_px: int = TILE_PX
    halo_px: int = 4
    precision: str = "fp32"


@dataclass
class Bench:
    """A job that is filled by hand, without a network and without workers."""

    job: Job
    spec: Spec = field(default_factory=Spec)

    def add(self, item: str, lr: NDArray[Any], *, failed: dict[int, str] | None = None) -> None:
        """Add an item whose tiles are all done, but for the failed ones."""
        channels, height, width = lr.shape
        dtype = str(lr.dtype)
        grid = TileGrid(height, width, TILE_PX, 4)
        failed = failed or {}
        source = Archive.open_or_create(self.job.source_dir)
        source.create(
            item,
            shape=(channels, height, width),
            dtype=dtype,
            layout=Layout.of(height=height, width=width, shard_px=512),
            provenance={"sha256": item},
            pixels=lr,
        )
        facts = {"fingerprint": item, "spec": asdict(self.spec), "upres_version": "0.1.0"}
        height, width = height * SCALE, width * SCALE
        Archive.open_or_create(self.job.sr_dir).create(
            item,
            shape=(channels, height, width),
            dtype=dtype,
            layout=Layout.of(height=height, width=width, shard_px=TILE_PX * SCALE),
            provenance={**facts, "statement": "Pixels were synthesised."},
            pixels=lr.repeat(SCALE, axis=1).repeat(SCALE, axis=2),
        )
        self.put(
            item,
            state=INGESTED,
            channels=channels,
            dtype=dtype,
            units=len(grid),
            height=lr.shape[1],
            width=lr.shape[2],
            fingerprint=item,
        )
        self.units(item, {t: (FAILED, failed[t]) if t in failed else (DONE, "") for t in grid})

    def put(self, item: str, **facts: Any) -> None:
        """Write an item's row."""
        ledger = self.job.open_ledger()
        ledger.put_items([ItemRow(item=item, **facts)])
        ledger.close()

    def units(self, item: str, states: dict[int, tuple[str, str]]) -> None:
        """Write the outcome of tiles."""
        ledger = self.job.open_ledger()
        ledger.put_units(
            UnitRow(
                item=item,
                number=tile,
                fingerprint=item,
                state=state,
                message=message,
                error="NotFiniteError" if message else "",
            )
            for tile, (state, message) in states.items()
        )
        ledger.close()

    def score(self, item: str, **mse_by_kind: float) -> None:
        """Score tile 0 of an item with a mean squared error for each kind."""
        ledger = self.job.open_ledger()
        ledger.put_scores(
            ScoreRow(
                item=item,
                tile=0,
                kind=kind,
                fingerprint=item,
                error_total=mse * 100,
                error_count=100,
                ssim_total=9.0,
                ssim_count=10,
            )
            for kind, mse in mse_by_kind.items()
        )
        ledger.close()

    def page(self) -> str:
        """Write the report and return it."""
        return write_report(self.job).read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(create_job(tmp_path / "job", source="pictures"))


def noise(
    channels: int = 3, height: int = 20, width: int = 30, dtype: str = "uint8"
) -> NDArray[Any]:
    unit = np.random.default_rng(1).random((channels, height, width))
    peak = 1 if dtype == "float32" else np.iinfo(dtype).max
    return (unit * peak).astype(dtype)


def pictures(page: str) -> int:
    return page.count('src="data:image/')


# What the page tells


def test_an_empty_job_has_a_report_that_says_what_to_type_next(bench: Bench) -> None:
    page = bench.page()
    assert "Nothing was ingested" in page
    assert "upres upscale SRC" in page


def test_the_page_loads_nothing_from_elsewhere(bench: Bench) -> None:
    bench.add("a.png", noise())
    page = bench.page()
    assert "://" not in page
    assert not re.search(r"<link|@import|<iframe", page)
    assert all(src.startswith("data:") for src in re.findall(r'src="([^"]*)', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))


def test_markup_in_names_and_messages_is_shown_and_never_run(bench: Bench) -> None:
    bench.add(NASTY, noise(), failed={0: "<img src=x onerror=alert(2)>"})
    bench.put('"><svg onload=alert(3)>.png', state=REJECTED, error="E", message="</script>")
    page = bench.page()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<svg onload" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page
    assert page.count("</script>") == 1


def test_a_job_that_is_not_scored_says_so(bench: Bench) -> None:
    bench.add("a.png", noise())
    page = bench.page()
    assert "Not scored yet" in page
    assert "PSNR-Y SR" not in page


def test_scores_stand_beside_bicubic_with_the_gain(bench: Bench) -> None:
    bench.add("a.png", noise())
    bench.score("a.png", reference=65.025, bicubic=650.25)
    page = bench.page()
    assert "30.00" in page
    assert "20.00" in page
    assert "+10.00" in page
    assert "no. 0" in page
    assert GAIN.steps[-1] in page


def test_scores_without_originals_are_called_consistency(bench: Bench) -> None:
    bench.add("a.png", noise())
    bench.score("a.png", consistency=65.025)
    page = bench.page()
    assert "Consistency PSNR-Y" in page
    assert "gain over bicubic" not in page


def test_equal_pixels_are_told_as_infinite_and_left_out_of_the_means(bench: Bench) -> None:
    bench.add("equal.png", noise())
    bench.score("equal.png", reference=0.0, bicubic=0.0)
    bench.add("other.png", noise())
    bench.score("other.png", reference=65.025, bicubic=65.025)
    page = bench.page()
    assert "∞" in page
    assert "1 of 2 scored items equal" in page
    assert "nan" not in page


def test_the_settings_come_from_the_upscaled_items(bench: Bench) -> None:
    bench.add("a.png", noise())
    page = bench.page()
    for fact in ("span-x2", "×2", "fp32", "16 LR px", "4 LR px", "abcdef012345", "0.1.0"):
        assert fact in page
    assert "Pixels were synthesised." in page


def test_failed_and_pending_tiles_have_cells_of_their_own(bench: Bench) -> None:
    bench.add("a.png", noise(), failed={1: "weights are NaN"})
    bench.units("a.png", {2: ("elsewhere", "")})
    page = bench.page()
    cells = page[page.index('class="map"') :]
    assert "tile 1, failed: NotFiniteError: weights are NaN" in cells
    assert 'fill="url(#failed)"' in cells
    assert "tile 2, pending" in cells
    assert 'fill="url(#pending)"' in cells


@pytest.mark.slow
def test_failures_are_listed_to_500_and_the_rest_counted(bench: Bench) -> None:
    bench.add("wide.png", noise(1, 1, 505 * TILE_PX), failed=dict.fromkeys(range(503), "why"))
    bench.put("bad.png", state=REJECTED, error="PictureError", message="the file is text")
    page = bench.page()
    assert "the file is text" in page
    assert "4 more are not shown" in page
    assert "<code>upres rerun " in page


def test_rejected_and_vanished_items_are_counted_and_have_no_pictures(bench: Bench) -> None:
    bench.put("bad.png", state=REJECTED, error="PictureError", message="no picture")
    bench.put("gone.png", state=VANISHED, height=4, width=4, channels=1, dtype="uint8")
    page = bench.page()
    assert "1 rejected, 1 vanished" in page
    assert pictures(page) == 0


@pytest.mark.slow
def test_of_a_large_job_the_worst_come_first_and_the_rest_are_counted(bench: Bench) -> None:
    for n in range(26):
        bench.add(f"{n:02}.png", noise(1, 4, 4))
        bench.score(f"{n:02}.png", reference=100.0 + n, bicubic=100.0)
    page = bench.page()
    shown = re.findall(r'<h3 id="[^"]*"><bdi>(.*?)</bdi>', page)
    assert shown == [f"{n:02}.png" for n in range(25, 1, -1)]
    assert "2 are not shown" in page


def test_the_table_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_LINES", 2)
    for name in "abc":
        bench.add(name, noise(1, 4, 4))
    assert "1 more are not shown" in bench.page()


# The pictures on it


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_kind_of_picture_is_shown(bench: Bench, channels: int, dtype: str) -> None:
    bench.add("a.tif", noise(channels, dtype=dtype))
    page = bench.page()
    assert pictures(page) == 3
    assert 'class="reason"' not in page


def test_a_picture_of_one_pixel_and_one_that_is_not_finite_are_shown(bench: Bench) -> None:
    bench.add("one.png", noise(3, 1, 1))
    bench.add("nan.tif", np.full((1, 9, 9), np.nan, dtype=np.float32))
    assert pictures(bench.page()) == 6


def test_a_damaged_item_shows_the_reason_and_costs_no_other_its_pictures(bench: Bench) -> None:
    bench.add("a.png", noise())
    bench.add("b.png", noise())
    for shard in (bench.job.sr_dir / "a.png" / "0" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-20] + b"\xff" * 20)
    page = bench.page()
    assert "a.png rows 0-" in page
    assert page.count('class="reason"') == 1
    assert pictures(page) == 1 + 3


def test_a_job_whose_archives_are_gone_still_has_a_report(bench: Bench) -> None:
    bench.add("a.png", noise())
    bench.job.sr_dir.rename(bench.job.folder / "elsewhere")
    assert pictures(bench.page()) == 1
    bench.job.source_dir.rename(bench.job.folder / "elsewhere too")
    page = bench.page()
    assert pictures(page) == 0
    assert 'class="reason"' in page


def test_pixels_of_an_earlier_upscaling_are_not_shown(bench: Bench) -> None:
    bench.add("a.png", noise())
    bench.put(
        "a.png",
        state=INGESTED,
        channels=3,
        dtype="uint8",
        height=20,
        width=30,
        units=4,
        fingerprint="another model",
    )
    page = bench.page()
    assert "by an earlier upscaling" in page
    assert pictures(page) == 1


def test_an_overview_is_the_block_mean_read_in_small_pieces() -> None:
    pixels = noise(2, 700, 1300)
    read: list[Rect] = []

    class Recorder:
        size, channels = (700, 1300), 2

        def read(self, rect: Rect) -> NDArray[Any]:
            read.append(rect)
            return pixels[rect.index]

    small = overview(Recorder())  # type: ignore[arg-type]
    assert small.shape == (2, 234, 434)
    assert max(rect.pixels for rect in read) <= 512 * 512
    assert sum(rect.pixels for rect in read) == 700 * 1300
    assert small[1, 3, 5] == pytest.approx(pixels[1, 9:12, 15:18].mean() / 255, abs=1e-6)
    assert small[0, -1, -1] == pytest.approx(pixels[0, 699:, 1299:].mean() / 255, abs=1e-6)


def compared(bench: Bench, done: set[int], *, sr: NDArray[Any] | None = None) -> Any:
    lr = bench.job.open_source().image("a")
    target = bench.job.open_sr().image("a")
    if sr is not None:
        target.array[...] = sr
    return portraits.compare(
        lr,
        target,
        scale=SCALE,
        grid=TileGrid(*lr.size, TILE_PX, 4),
        done=done,
        small=overview(lr),
    )


def test_a_comparison_shows_done_tiles_alone(bench: Bench) -> None:
    bench.add("a", noise(1, 40, 40))
    found = compared(bench, {4})
    assert found.window_lr == Rect(Span(16, 32), Span(16, 32))
    assert compared(bench, set()) is None


@pytest.mark.slow
def test_a_comparison_is_where_sr_differs_most_from_bicubic(bench: Bench) -> None:
    bench.add("a", np.full((1, 200, 700), 99, dtype=np.uint8))
    sr = np.full((1, 400, 1400), 99, dtype=np.uint8)
    sr[:, :, 700:900] = 250
    found = compared(bench, set(range(13 * 44)), sr=sr)
    assert found.window_lr == Rect(Span(0, 200), Span(300, 600))
    assert np.all(found.bicubic == np.float32(99 / 255))


def test_transparency_is_shown_over_a_ground() -> None:
    pixels = np.zeros((4, 10, 100), dtype=np.float32)
    pixels[3, :, :50] = 1
    format, content = portraits.data_uri(pixels).removeprefix("data:image/").split(";base64,")
    shown = read_picture(base64.b64decode(content), name=f"x.{format}").pixels
    assert shown.shape == (3, 10, 100)
    assert np.all(shown[:, :, :50] == 0)
    assert np.all(shown[:, :, 50:] > 100)


# The maps on it


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 64), st.data())
def test_the_cells_of_a_map_cover_the_picture_exactly_once(
    height: int, width: int, tile_px: int, data: st.DataObject
) -> None:
    grid = TileGrid(height, width, tile_px, 0)
    bad = data.draw(st.integers(0, len(grid) - 1))
    states = (TileState(t, "scored", Figures(psnr=-1.0 if t == bad else 40.0)) for t in grid)
    cells = tile_map(grid, states)
    assert len(cells) <= 1600
    assert sum(cell.rect.pixels for cell in cells) == height * width
    assert sum(cell.tiles for cell in cells) == len(grid)
    (worst,) = [cell for cell in cells if cell.worst.tile == bad]
    assert worst.rect.meet(grid.core(bad)) == grid.core(bad)
    assert worst.fill(AGREEMENT) == AGREEMENT.steps[0]


def test_a_cell_of_several_tiles_shows_a_failed_one_before_all_others() -> None:
    grid = TileGrid(16, 16 * 80, 16, 0)
    scored = [TileState(t, "scored", Figures(psnr=10.0)) for t in grid]
    scored[5] = TileState(5, "failed", Figures(), "why")
    cell = tile_map(grid, scored)[2]
    assert cell.words == "tile 5, failed: why (the worst of 2 tiles)"
    assert cell.fill(AGREEMENT) == "url(#failed)"


@pytest.mark.parametrize("colours", [GAIN, AGREEMENT])
def test_a_scale_has_a_colour_for_every_value(colours: Any) -> None:
    assert list(colours.edges) == sorted(colours.edges)
    assert len(set(colours.steps)) == len(colours.edges) + 1 == len(colours.bounds)
    assert colours.of(-np.inf) == colours.steps[0]
    assert colours.of(np.inf) == colours.steps[-1]


def test_a_gain_is_zero_between_equals_and_unknown_without_scores() -> None:
    both = Figures(np.inf, 1.0, np.inf, 1.0, against_bicubic=True)
    assert both.gain == 0
    assert replace(both, psnr=30.0).gain == -np.inf
    assert replace(both, psnr=None).gain is None
