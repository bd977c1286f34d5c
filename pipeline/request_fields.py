"""The fields of requests: each has its default and its help text in one place.

A request is a frozen dataclass that holds everything asked of a command or flow. The command line
and the flows read defaults and help texts from its fields. They do so before they print any help,
so this module and every request import nothing heavy: what a check needs, the check imports.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields
from typing import Any


def optional(default: Any, help_text: str) -> Any:
    """Return a field of a request with its default, and what command line and forms say of it."""
    return field(default=default, metadata={"help": help_text})


def needed(help_text: str) -> Any:
    """Return a field of a request that has no default, and what is said of it."""
    return field(metadata={"help": help_text})


def same_as(request: type[Any], name: str) -> Any:
    """Return a field that has the default and the help text of a field of another request."""
    other = field_of(request, name)
    return field(default=other.default, metadata=other.metadata)


def field_of(request: type[Any], name: str) -> Field[Any]:
    """Return a field of a request by its name."""
    return next(one for one in fields(request) if one.name == name)


def is_needed(one: Field[Any]) -> bool:
    """Return whether a field has no default."""
    return one.default is MISSING and one.default_factory is MISSING


def help_of(request: type[Any], name: str) -> str:
    """Return the help text of a field of a request."""
    return str(field_of(request, name).metadata["help"])
