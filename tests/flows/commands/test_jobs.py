"""Commands on jobs: what they load before they need it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from pipeline.jobs.job import create_job

if TYPE_CHECKING:
    from pathlib import Path

STATUS = """
import sys
from click.testing import CliRunner
from flows.cli import main
for words in ((), ("--json",)):
    said = CliRunner().invoke(main, ["status", sys.argv[1], *words])
    assert said.exit_code == 0, said
print(sorted({"torch", "distributed", "prefect", "matplotlib"} & set(sys.modules)))
"""


def test_status_loads_neither_torch_nor_dask(tmp_path: Path) -> None:
    """They take two seconds, and a status is asked for again and again."""
    job = create_job(tmp_path / "job", source=str(tmp_path))
    job.open_ledger().close()
    words = [sys.executable, "-c", STATUS, str(job.folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
