"""What networks call themselves: a name in front of a class makes it one that can be built.

A file of `models/` that defines a network marks it by `generator` or `discriminator`, or a method
that learns nothing by `baseline`. `models.registry` imports them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Builder = Callable[..., nn.Module]

Network = TypeVar("Network", bound="type[nn.Module]")

BUILDERS: dict[str, Builder] = {}
"""Architecture name to ``builder(scale=..., channels=..., **arguments)``."""

DISCRIMINATORS: dict[str, Builder] = {}
"""Name to ``builder(channels=..., patch_px=..., **arguments)`` of a network that judges pictures.

It maps HR or SR ``(n, channels, h, w)`` in 0..1 to logits, one a picture (``unet``: one a pixel).
Those with dense layers take patches of `patch_px` only, the others any size.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What is known of a method that learned nothing."""

    summary: str
    only_doubles: bool = False
    """Whether it enlarges by powers of two only."""


BASELINES: dict[str, Baseline] = {}


def generator(name: str, **arguments: Any) -> Callable[[Network], Network]:
    """Mark a network that enlarges; `arguments` are defaults of the architecture of this name."""
    return _marker(BUILDERS, name, arguments)


def discriminator(name: str, **arguments: Any) -> Callable[[Network], Network]:
    """Mark a network that judges pictures."""
    return _marker(DISCRIMINATORS, name, arguments)


def baseline(
    name: str, *, summary: str, only_doubles: bool = False, **arguments: Any
) -> Callable[[Network], Network]:
    """Mark a method that enlarges and learned nothing."""

    def mark(network: Network) -> Network:
        BASELINES[name] = Baseline(summary=summary, only_doubles=only_doubles)
        return _marker(BUILDERS, name, arguments)(network)

    return mark


def _marker(
    builders: dict[str, Builder], name: str, arguments: dict[str, Any]
) -> Callable[[Network], Network]:
    def mark(network: Network) -> Network:
        builder = partial(network, **arguments) if arguments else network
        if builders.setdefault(name, builder) is not builder:
            raise TypeError(f"architecture {name!r} is taken, by {builders[name]}")
        return network

    return mark
