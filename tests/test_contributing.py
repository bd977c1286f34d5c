"""The worked examples of CONTRIBUTING.md, written where they say, do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECIPE = re.compile(r"^```toml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLE = re.compile(r"^ *```python\n( *# (\S+)\n.*?)^ *```$", re.DOTALL | re.MULTILINE)

USE = """
import io, json
from contextlib import closing
from pathlib import Path
import numpy as np, torch
from click.testing import CliRunner
from flows import count_runs
from flows.commands.tiny import runs
from models import registry
from models.spec import ModelSpec
from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.batch import degrade_batch
from pipeline.degradation.chain import Degradation
from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.compute.status import read_status
from pipeline.compute.stop import Stop
from pipeline.jobs.brightness import plan_brightness, run_brightness
from pipeline.jobs.job import create_job, open_job
from pipeline.jobs.listener import JobListener
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest
from pipeline.pictures.files import encode_picture
from pipeline.pictures.codecs.ppm import read_ppm, write_ppm
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture
from pipeline.pictures.strips import OneStrip
from pipeline.training.catalogue import list_models
from prefect.utilities.callables import parameter_schema

spec = ModelSpec(name="tiny", architecture="tiny", scale=3, channels=3)
assert registry.build(spec)(torch.zeros(2, 3, 5, 7)).shape == (2, 3, 15, 21)

(recipe,) = [entry for entry in list_models() if entry.spec.name == "tiny-x3"]
assert recipe.weights == "recipe" and recipe.spec.summary and recipe.spec.licence

steps = [{"op": "resize"}, {"op": "fade", "strength": 0.5}]
chain = Degradation.from_table({"name": "faded", "steps": steps}, scale=2)
hr = np.full((1, 3, 8, 8), 55, np.uint8)
assert (degrade_patches(hr, np.array([1]), chain, scale=2) == 155).all()

pixels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
picture = Picture(pixels=pixels, metadata=Metadata(format="ppm", mode="RGB"))
file = io.BytesIO()
write_ppm(file, OneStrip(pixels), picture.metadata, 90)
assert (read_ppm(file.getvalue(), 10**6)[0] == pixels).all()

patches = degrade_batch(torch.from_numpy(hr) / 255, [1], chain, scale=2)
assert (patches * 255).round().eq(155).all()

job = create_job(Path("job"), source="photos")
with closing(job.open_ledger()):
    pass
said = CliRunner().invoke(runs, ["job"])
assert (said.exit_code, said.output) == (0, "0 runs\\n"), said.output
said = CliRunner().invoke(runs, ["job", "--json"])
assert json.loads(said.output) == {"runs": 0}
assert CliRunner().invoke(runs, ["job", "--least", "1"]).exit_code == 3

Path("photos").mkdir()
Path("photos/a.png").write_bytes(encode_picture(picture, name="a.png", format="png")[0])
request = UpscaleRequest(src="photos", job_dir=Path("bright"), model="nearest-x2", workers=1)
upscale_job(request, JobListener())
bright = open_job(Path("bright"))
with closing(bright.open_ledger_to_read()) as ledger:
    tasks = plan_brightness(bright, read_status(bright.folder, ledger), ledger)
with connect(ClusterSettings(workers=1)) as client:
    levels, failures = run_brightness(tasks, client=client, stop=Stop())
assert (levels, failures) == ({"a.png": pixels.mean()}, [])

# A task called like a function needs no server.
count_runs.count_all = count_runs.count_all.fn
form = parameter_schema(count_runs.count_runs)
assert form.required == ["job_dir"]
assert form.properties["least"]["default"] == 0
assert form.properties["least"]["description"] == "The fewest runs that are expected."
ended = count_runs.count_runs.fn(job_dir=Path("job"))
assert (ended.name, ended.data) == ("Completed", {"runs": 0})
ended = count_runs.count_runs.fn(job_dir=Path("job"), least=1)
assert (ended.name, ended.message) == ("CompletedWithFailures", "0 runs, expected 1")
assert ended.data.document == {"runs": 0}
ended = count_runs.count_runs.fn(job_dir=Path("nowhere"))
assert ended.name == "Failed"
assert "nowhere does not exist, expected a job" in ended.message
"""


@pytest.mark.slow
def test_the_examples_written_where_they_say_are_found_and_do_what_they_say(tmp_path: Path) -> None:
    for package in ("models", "pipeline", "flows"):
        unused = shutil.ignore_patterns("weights", "photos", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=unused)
    examples = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())
    for text, path in examples:
        (tmp_path / path).write_text(textwrap.dedent(text))
    assert len(examples) == 7
    (recipe,) = RECIPE.findall((ROOT / "CONTRIBUTING.md").read_text())
    (tmp_path / "pipeline/recipes/tiny-x3.toml").write_text(recipe)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths, settings = [path for _, path in examples], str(ROOT / "pyproject.toml")
    if (known := ROOT / ".mypy_cache").is_dir():
        shutil.copytree(known, tmp_path / ".mypy")  # What mypy knows of libraries takes a minute.
    for check in (
        ["ruff", "check", "--config", settings],
        ["ruff", "format", "--check", "--config", settings],
        ["mypy", "--cache-dir", ".mypy", "--config-file", settings],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *check, *paths],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
