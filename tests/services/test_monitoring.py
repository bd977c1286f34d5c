"""The examples for Prometheus: its own tool accepts them, and they name figures that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.compute.metrics import STAGES, _Figures

pytestmark = pytest.mark.services

MONITORING = Path(__file__).parents[2] / "monitoring"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=lambda words: " ".join(words),
)
def test_promtool_accepts_the_examples(promtool: str, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool, *words], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_the_rules_name_figures_and_stages_that_there_are() -> None:
    rules = (MONITORING / "alerts.yml").read_text()
    samples = [sample for family in _Figures().collect() for sample in family.samples]
    assert set(re.findall(r"upres_\w+", rules)) <= {sample.name for sample in samples}
    assert set(re.findall(r'stage="(\w+)"', rules)) <= set(STAGES)
    results = {sample.labels["result"] for sample in samples if "result" in sample.labels}
    assert set(re.findall(r'result="(\w+)"', rules)) <= results
    assert len(re.findall(r"- alert: ", rules)) == 3


def test_each_rule_is_tried_both_ways() -> None:
    names = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    tried = re.findall(
        r"alertname: (\w+)\n( +exp_alerts:)?", (MONITORING / "alerts_test.yml").read_text()
    )
    for name in names:
        assert {bool(fires) for tried_name, fires in tried if tried_name == name} == {True, False}
