"""The parameters of a flow: the fields of the request that it fills, and what each of them means.

Prefect makes a form of a flow's signature and of the section `Args` of its docstring. Both are
made here, from the request and from the command that fills the same one, so that an option that is
added to these is in the form as well.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from dataclasses import Field

F = TypeVar("F", bound="Callable[..., Any]")

_EMPTY, _KEYWORD = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY


def filled_from(
    *requests: type[Any], command: click.Command, renamed: Mapping[str, str] | None = None
) -> Callable[[F], F]:
    """Return a decorator that gives a function the fields of `requests` as its parameters.

    Of two fields of one name that of the later request counts. What a field means is said by the
    field, or else by the option of `command` that is called like it, or as `renamed` says.
    """
    named = {(renamed or {}).get(field, field): field for field in map(_name, _fields(*requests))}
    helps = {**_option_helps(command, named), **_field_helps(*requests)}
    parameters = sorted(_parameters(*requests), key=lambda one: one.default is not _EMPTY)
    words = {opt: named.get(str(p.name), opt) for p in command.params for opt in p.opts}

    def give(function: F) -> F:
        lines = [f"    {one.name}: {_in_form(helps[one.name], words)}" for one in parameters]
        about = inspect.getdoc(function) or ""
        function.__doc__ = "\n".join([about, "", "Args:", *lines])
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return give


def _parameters(*requests: type[Any]) -> Iterator[inspect.Parameter]:
    types = {name: kind for one in requests for name, kind in get_type_hints(one).items()}
    for field in _fields(*requests):
        yield inspect.Parameter(
            field.name, _KEYWORD, default=_default(field), annotation=types[field.name]
        )


def _fields(*requests: type[Any]) -> Iterable[Field[Any]]:
    """Return the fields of requests, those that they share with others last."""
    found = {field.name: field for request in requests for field in fields(request)}
    own = {name for request in requests for name in inspect.get_annotations(request)}
    return sorted(found.values(), key=lambda field: field.name not in own)


def _name(field: Field[Any]) -> str:
    return field.name


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return _EMPTY if field.default_factory is MISSING else field.default_factory()


def _option_helps(command: click.Command, named: Mapping[str, str]) -> dict[str, str]:
    options = [one for one in command.params if isinstance(one, click.Option) and one.help]
    return {named[str(o.name)]: str(o.help) for o in options if str(o.name) in named}


def _field_helps(*requests: type[Any]) -> dict[str, str]:
    helps = {field.name: field.metadata.get("help") for field in _fields(*requests)}
    return {name: text for name, text in helps.items() if text}


def _in_form(text: str, words: Mapping[str, str]) -> str:
    """Return a help text as a form says it, whose fields are not called ``--like-this``."""
    return re.sub(r"--[a-z][a-z-]*", lambda found: words.get(found[0], found[0]), text)
