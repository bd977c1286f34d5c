"""The picture of the rooms in docs/architecture.md is the code's: rooms, arrows, and stations."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = re.compile(r"^```mermaid\nflowchart TD\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STATION = re.compile(r"^\| \d+ \| `([\w/]+)\.py` \| `([\w.]+)` \|", re.MULTILINE)


def room_of(module: str) -> str | None:
    """Return the room of a module: a folder of the pipeline, or one of the two other packages."""
    package, _, rest = module.partition(".")
    if package != "pipeline":
        return package
    room, inside, _ = rest.partition(".")
    return room if inside or (ROOT / "pipeline" / room).is_dir() else None


@cache
def imports() -> frozenset[tuple[str, str]]:
    """Return which room imports which, over all modules."""
    graph = grimp.build_graph("flows", "models", "pipeline", cache_dir=None)
    pairs = {
        (room_of(importer), room_of(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    return frozenset((a, b) for a, b in pairs if a and b and a != b)


def below(room: str, arrows: frozenset[tuple[str, str]]) -> set[str]:
    """Return the rooms that arrows lead to from a room, over others too."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        here = waiting.pop()
        for a, b in arrows:
            if a == here and b not in found:
                found.add(b)
                waiting.append(b)
    return found


def shortest(arrows: frozenset[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows that no way over other rooms replaces."""
    return {
        (a, b)
        for a, b in arrows
        if not any(b in below(c, arrows) for x, c in arrows if x == a and c != b)
    }


def drawn() -> set[tuple[str, str]]:
    (picture,) = ROOMS.findall(PAGE)
    return {(a, b) for a, b in re.findall(r"^ *(\w+).* --> (\w+)", picture, re.MULTILINE)}


def test_the_picture_has_every_room_and_no_other() -> None:
    folders = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert {room for arrow in drawn() for room in arrow} == folders | {"flows", "models"}


def test_the_rooms_inside_of_rooms_are_named() -> None:
    (table,) = re.findall(r"have rooms of their own:\n\n(.*?)\n\n", PAGE, re.DOTALL)
    inner = [*(ROOT / "pipeline").glob("*/*/__init__.py"), *(ROOT / "flows").glob("*/__init__.py")]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in inner}
    named = [
        name for row in table.splitlines()[2:] for name in re.findall("`(.*?)`", row.split("|")[1])
    ]
    assert {name if name.startswith("flows/") else f"pipeline/{name}" for name in named} == folders


def test_the_modules_beside_the_rooms_are_named() -> None:
    beside = {path.name for path in (ROOT / "pipeline").glob("*.py")} - {"__init__.py"}
    (sentence,) = re.findall(r"that\s+are\s+in\s+no\s+room:\s+(.*?)\.\n\n", PAGE, re.DOTALL)
    assert set(re.findall(r"`pipeline/(\w+\.py)`", sentence)) == beside


def test_the_arrows_are_the_imports_that_no_other_way_replaces() -> None:
    lines = "\n".join(f"    {a} --> {b}" for a, b in sorted(shortest(imports())))
    assert drawn() == shortest(imports()), f"the picture should have\n{lines}"


def test_each_station_on_the_way_of_a_picture_is_a_function_that_is_there() -> None:
    stations = STATION.findall(PAGE)
    assert len(stations) >= 10
    for path, name in stations:
        found = importlib.import_module(path.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found), f"{path}: {name}"
