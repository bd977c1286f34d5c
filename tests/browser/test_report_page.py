"""The report in a real browser: its script runs, and it asks for nothing from outside."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_PROBE = """
<script>
addEventListener("load", () => {
const column = [...document.querySelectorAll("table.sorted thead th")]
  .findIndex(head => head.dataset.sort === "number");
const order = () => [...document.querySelectorAll("table.sorted tbody tr")]
  .map(row => Number(row.cells[column].dataset.value)).join(" ");
document.querySelectorAll("table.sorted thead th button")[column].click();
const up = order();
document.querySelectorAll("table.sorted thead th button")[column].click();
const slider = document.querySelector(".compare input");
slider.value = 20;
slider.dispatchEvent(new Event("input"));
const found = document.createElement("pre");
found.id = "found";
found.textContent = [up, order(), slider.parentElement.style.getPropertyValue("--at"),
  [...document.images].every(image => image.complete && image.naturalWidth > 0),
  performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
].join("|");
document.body.append(found);
});
</script>
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


def test_the_report_sorts_slides_and_shows_all_its_pictures_without_a_network(
    chromium: str, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    for n, height in enumerate((60, 90, 75)):
        save(tmp_path / "in" / f"<b>{n}.png", photo(height, 80, at=n * 90))
    job = tmp_path / "job"
    upres("upscale", tmp_path / "in", job, "--model", "lanczos-x2", "--tile", 32, *cluster)
    upres("score", job, *cluster)
    assert upres("report", job).code == 0
    page = (job / "report.html").read_text()
    (job / "probed.html").write_text(page.replace("</body>", f"{_PROBE}</body>"))
    told = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", f"file://{job / 'probed.html'}"],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', told.stdout, re.DOTALL)
    assert found is not None
    up, down, at, all_shown, requests = found[1].split("|")
    rising = [float(value) for value in up.split()]
    assert len(rising) == 3
    assert rising == sorted(rising)
    assert [float(value) for value in down.split()] == rising[::-1]
    assert at == "20%"
    assert all_shown == "true"
    assert requests == "0"
