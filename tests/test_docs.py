"""The documents are true: what they tell to type is typed here, in order, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from distributed import Client, LocalCluster

from pipeline.storage.store import BucketPlace
from tests.flows.demo.demonstration import check_demonstration
from tests.forked_command import forked_commands
from tests.ports import free_port
from tests.services.databases import put_new_database
from tests.services.named_store import known_to
from tests.services.stores import SeaweedFS, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import SavePicture, TakePhoto

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SCRIPTS = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(document: Path) -> list[str]:
    """Return the lines of all blocks marked as commands, without those for make and git."""
    text = document.read_text().replace("\\\n", "")
    blocks = COMMANDS.findall(text)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [line for line in lines if not re.match(r"(make|git|cd) ", line)]


@pytest.fixture(scope="module")
def workers() -> Iterator[str]:
    """The address of workers for all pages: each command would start some of its own."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def quick() -> Iterator[str]:
    """A folder with an `upres` for all pages: the installed one imports for seconds."""
    with forked_commands() as folder:
        yield str(folder)


@pytest.fixture
def bucket_of_pictures(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
) -> Iterator[dict[str, str]]:
    """What names a store that has the pictures of `tmp_path` in its bucket `pictures`.

    The workers for all pages know its keys meanwhile.
    """
    store = SeaweedFS(tmp_path_factory.mktemp("weed"))
    store.start()
    try:
        store.make_bucket("pictures")
        environ = environment(store.endpoint)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        for path in (tmp_path / "photos").rglob("*.*"):
            below = path.relative_to(tmp_path)
            BucketPlace("s3", "pictures", str(below)).write_bytes(path.read_bytes())
        with Client(workers, set_as_default=False) as client, known_to(client, environ):
            yield environ
    finally:
        store.kill()


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_of_the_document_does_what_it_says(
    document: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    request: pytest.FixtureRequest,
    workers: str,
) -> None:
    for n, name in enumerate(("first.png", "trips/second.jpg", "trips/far/third.webp")):
        save(tmp_path / "photos" / name, photo(120, 132, at=n * 60))
    # What a document leaves running ends with it.
    ends = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"
    script = "\n".join(["set -euo pipefail", ends, *commands(document)])
    put_new_database(tmp_path / "home" / "prefect")
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    served = {"UPRES_HOME": str(tmp_path / "home"), "UPRES_PORT": str(free_port())}
    typed = "\n".join(commands(document))
    if "s3://pictures" in typed:
        served |= request.getfixturevalue("bucket_of_pictures")
    if document.stem == "README":
        # It is typed as it is by who begins; nothing of Prefect may be left in their home.
        served |= {"HOME": str(tmp_path / "user")}
        (tmp_path / "user").mkdir()
    elif "upres serve" not in typed:
        # What is served would remember the address.
        served["UPRES_CLUSTER"] = workers
    if document.stem != "README" and "upres serve" not in typed:
        # What is served goes on beside the page, and is ended by it: that is the installed one.
        path.insert(0, request.getfixturevalue("quick"))
    told = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **served, "PATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert "Traceback" not in told.stderr
    if document.stem == "README":
        check_demonstration(tmp_path / "demo", told=told.stdout)
        assert not (tmp_path / "user" / ".prefect").exists()
    for text in SCRIPTS.findall(document.read_text()):
        subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)


def test_every_command_of_the_command_line_stands_in_the_documents() -> None:
    from flows.cli import main

    typed = "\n".join(line for document in DOCUMENTS for line in commands(document))
    missing = [name for name in main.commands if f"upres {name}" not in typed]
    assert missing == []


def test_no_document_links_to_a_file_that_is_not_there() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]:
        for target, place in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text()):
            if "://" in target:
                continue
            file = document.parent / target if target else document
            assert file.exists(), f"{document.name}: {target}"
            assert not place or place in headings(file), f"{document.name}: {target}#{place}"


def headings(document: Path) -> set[str]:
    """Return what links call the headings of a document."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_line_of_a_document_is_longer_than_130_characters() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > 130
    ]
    assert long == []


def test_every_benchmark_stands_in_the_list_of_benchmarks() -> None:
    folder = ROOT / "benchmarks"
    scripts = {path.stem for path in folder.glob("*.py") if "def main" in path.read_text()}
    listed = set(re.findall(r"python -m benchmarks\.(\w+)", (folder / "README.md").read_text()))
    assert listed == scripts
