"""The parameters of a flow: the fields of the request that it fills, and what each of them means.

Prefect makes a form of a flow's signature and of the section `Args` of its docstring. Both are
made here from the request, so a field that is added to the request is in the form as well.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from pipeline.request_fields import help_of, is_needed
from pipeline.storage.store import Place, local, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from dataclasses import Field

    import click

F = TypeVar("F", bound="Callable[..., Any]")

_PLACE = Annotated[
    Any, PlainValidator(place_of), WithJsonSchema({"type": "string", "format": "path"})
]

_LOCAL = Annotated[Path, BeforeValidator(lambda text: local(place_of(text), "it"))]
"""A path of this machine: an address would be taken for a folder called ``s3:``."""

_EMPTY = inspect.Parameter.empty


def filled_from(request: type[Any], *, command: click.Command) -> Callable[[F], F]:
    """Return a decorator that gives a function the fields of `request` as its parameters.

    Help texts name options of `command`, which fills the same request. A form shows the names of
    the fields instead.
    """
    parameters = sorted(_parameters(request), key=lambda one: one.default is not _EMPTY)
    fields_of_options = {opt: str(p.name) for p in command.params for opt in p.opts}

    def give(function: F) -> F:
        lines = [
            f"    {one.name}: {_in_form(help_of(request, one.name), fields_of_options)}"
            for one in parameters
        ]
        about = inspect.getdoc(function) or ""
        function.__doc__ = "\n".join([about, "", "Args:", *lines])
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return give


def _parameters(request: type[Any]) -> Iterator[inspect.Parameter]:
    types = {name: _in_forms(kind) for name, kind in get_type_hints(request).items()}
    for field in _fields(request):
        default = _EMPTY if is_needed(field) else field.default
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=types[field.name],
        )


def _in_forms(kind: Any) -> Any:
    """Return what Prefect is to take for a type of a request: a place is a text in its forms."""
    forms = {Place: _PLACE, Place | None: _PLACE | None, Path: _LOCAL}
    return forms.get(kind, kind)


def _fields(request: type[Any]) -> Iterable[Field[Any]]:
    """Return the fields of a request; fields that it inherits come last."""
    own = inspect.get_annotations(request)
    return sorted(fields(request), key=lambda field: field.name not in own)


def _in_form(text: str, fields_of_options: Mapping[str, str]) -> str:
    """Return a help text for a form, which shows names of fields and not ``--options``."""
    return re.sub(
        r"--[a-z][a-z-]*", lambda option: fields_of_options.get(option[0], option[0]), text
    )
