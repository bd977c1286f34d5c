"""The TOML file that gives clusters their names: where it is, and what it says.

Each of its tables is a cluster: ``[night]`` with ``kind = "slurm"`` and the keys of that kind.
"""

from __future__ import annotations

import os
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compute.clusters.description import KINDS, is_address
from pipeline.errors import UsageError
from pipeline.tables import nearest, read_toml, toml_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compute.clusters.description import Description

_IN_WORDS = {"str": "text", "int": "a whole number", "list": "a list", "dict": "a table"}
_PLACES = ("tls_ca_file", "tls_cert", "tls_key", "key_file", "known_hosts")
"""Keys of files on this machine: paths that are relative are so to the file that names them."""


def is_name(cluster: str) -> bool:
    """Return whether ``--cluster`` names a cluster, and is not the address of a scheduler."""
    return cluster != "local" and ":" not in cluster


def check_address(cluster: str) -> None:
    """Refuse what is neither ``local`` nor a name, and not the address of a scheduler either.

    Raises:
        UsageError: then.
    """
    if cluster != "local" and not is_name(cluster) and not is_address(cluster):
        raise UsageError(
            f"--cluster is {cluster!r}, expected local, the name of a cluster, or the address of a "
            "scheduler such as tcp://HOST:8786"
        )


def described(name: str, file: Path | None = None) -> Description:
    """Return what `file` (by default that of the user) says of the cluster `name`.

    Raises:
        UsageError: if there is no such file or cluster, or what it says cannot be.
    """
    path = file or default_file()
    table = _read(path, name)
    if name not in table:
        hint = nearest(name, table) if table else "it names none"
        raise UsageError(f"no cluster is called {name!r} in {path}; {hint}")
    if not isinstance(table[name], dict):
        found = toml_value(table[name])
        raise UsageError(f"{name} in {path} is {found}, expected a table [{name}]")
    return _described(name, table[name], path)


def default_file() -> Path:
    """Return where a user's clusters are, by the XDG convention."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    base = folder if folder.is_absolute() else Path("~/.config").expanduser()
    return base / "upres" / "clusters.toml"


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_toml(path)
    except OSError as error:
        raise UsageError(
            f"--cluster {name} is a name, and clusters are described in {path}, which cannot be "
            f"read ({error.strerror}); write it, name another with --clusters FILE, or give "
            "--cluster local or tcp://HOST:PORT"
        ) from error


def _described(name: str, values: Mapping[str, Any], path: Path) -> Description:
    where = f"cluster {name!r} in {path}"
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        has = "no kind" if kind is None else f"kind {toml_value(kind)}"
        raise UsageError(f"{where} has {has}, expected one of {', '.join(KINDS)}")
    known = {f.name: f for f in fields(KINDS[kind]) if f.name != "name"}
    typed: dict[str, Any] = {}
    for key, value in values.items():
        if key == "kind":
            continue
        if key not in known:
            raise UsageError(f"{where} has no key {key!r}; {nearest(key, ['kind', *known])}")
        wanted = re.split(r"\[", str(known[key].type))[0]
        if type(value).__name__ != wanted:
            words = _IN_WORDS[wanted]
            raise UsageError(f"{where}: {key} is {toml_value(value)}, expected {words}")
        typed[key] = _placed(key, value, path)
    for key, field in known.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and key not in typed:
            raise UsageError(f"{where} lacks {key}, which kind {kind} needs")
    return KINDS[kind](name=name, **typed)


def _placed(key: str, value: Any, path: Path) -> Any:
    """Return a file's place as an absolute path, any other value as it is."""
    if key not in _PLACES or not value:
        return value
    return os.path.abspath(path.parent / Path(value).expanduser())  # noqa: PTH100 - links stay.
