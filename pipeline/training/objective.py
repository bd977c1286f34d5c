"""What one step learns by: the losses of generator and discriminator on a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.imagenet import torchvision_file
from models.losses import CONTENT_LOSSES, GAN_LOSSES, Judgements, judged
from models.lpips import LpipsLoss, load_lpips
from models.vgg import ContentLoss, PerceptualLoss, load_vgg
from pipeline.errors import RecipeError
from pipeline.recipes.training import FEATURE_LOSSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from pipeline.recipes.training import TrainRecipe

_NETWORKS: dict[str, tuple[str, Callable[[Path | None], nn.Module]]] = {
    "content": ("vgg19", lambda file: ContentLoss(load_vgg(file, network="vgg19"))),
    "perceptual": ("vgg16", lambda file: PerceptualLoss(load_vgg(file, network="vgg16"))),
    "lpips_vgg": ("vgg16", lambda file: LpipsLoss(load_lpips(file, net="vgg"))),
}
"""Which network's features a loss looks at, and how it is made from their file."""

_FEATURES = ("vgg19", "vgg16", "alexnet")
"""Networks whose features losses and LPIPS look at."""


@dataclass(frozen=True, slots=True)
class FeatureFiles:
    """Where the features of ImageNet networks are: files, or folders that hold them.

    Where these have none, `torchvision` says whether its own are taken.
    """

    places: tuple[Path, ...] = ()
    torchvision: bool = False

    @classmethod
    def named(cls, names: Iterable[Path]) -> FeatureFiles:
        """Return what a user names: files, folders, and the word ``torchvision``.

        Raises:
            RecipeError: if a place has no features at all.
        """
        places = tuple(names)
        files = tuple(place for place in places if not is_torchvision(place))
        for place in files:
            if not any(cls((place,)).find(network) for network in _FEATURES):
                raise RecipeError(
                    f"{place} has no features; expected safetensors files whose names begin with "
                    f"{', '.join(_FEATURES)}"
                )
        return cls(files, torchvision=len(files) < len(places))

    def check(self, recipe: TrainRecipe) -> None:
        """Make sure that what the losses of a recipe need is there, before anything is begun.

        Raises:
            RecipeError: if a file is missing; the message says how to get one.
        """
        for loss in sorted(_feature_losses(recipe)):
            network, _ = _NETWORKS[loss]
            if self.find(network) is None:
                _load(recipe, loss, self)

    def find(self, network: str) -> Path | None:
        """Return the file of ``vgg19``, ``vgg16`` or ``alexnet``, which its name begins with.

        Raises:
            RecipeError: if torchvision is to have it and does not.
        """
        for place in self.places:
            files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
            for file in files:
                if file.name.startswith(network):
                    return file
        if not self.torchvision:
            return None
        try:
            return torchvision_file(network)
        except ValueError as error:
            raise RecipeError(str(error)) from error


def is_torchvision(place: Path) -> bool:
    """Return whether a place is the word for torchvision's own weights, and no file or folder."""
    return str(place) == "torchvision" and not place.exists()


@dataclass(slots=True)
class Objective:
    """The losses of a recipe, with the networks that they look through."""

    recipe: TrainRecipe
    features: Mapping[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: TrainRecipe, files: FeatureFiles, *, device: torch.device) -> Objective:
        """Load the features that the recipe's losses need.

        Raises:
            RecipeError: if a file of them is missing or holds another network.
        """
        names = sorted(_feature_losses(recipe))
        return cls(recipe, {name: _load(recipe, name, files).to(device) for name in names})

    def of_generator(
        self, sr: Tensor, hr: Tensor, *, step: int, discriminator: nn.Module | None
    ) -> dict[str, Tensor]:
        """Return the losses of a step by name, weighted; their sum is what is learned by.

        `sr` and `hr` are ``(n, c, h, w)`` in 0..1.
        """
        losses = {}
        for name, weight in self.recipe.losses_at(step).items():
            if name == "adversarial":
                losses[name] = weight * self._adversarial(sr, discriminator)
            elif name in FEATURE_LOSSES:
                losses[name] = weight * self.features[name](sr, hr)
            else:
                losses[name] = weight * CONTENT_LOSSES[name](sr, hr)
        return losses

    def of_discriminator(
        self, sr: Tensor, hr: Tensor, discriminator: nn.Module
    ) -> tuple[Tensor, Judgements]:
        """Return the discriminator's loss, and how often it was right."""
        real, fake = discriminator(hr), discriminator(sr.detach())
        return GAN_LOSSES["vanilla"].discriminator(real, fake), judged(real, fake)

    @torch.no_grad()
    def held_out(
        self, sr: Tensor, hr: Tensor, *, step: int, discriminator: nn.Module | None
    ) -> dict[str, float]:
        """Return both losses of patches that nothing is learned from, by their metrics' names."""
        if discriminator is not None:
            discriminator.eval()
        parts = self.of_generator(sr, hr, step=step, discriminator=discriminator)
        losses = {"validation_loss": float(total(parts.values()))}
        if discriminator is not None:
            loss, _ = self.of_discriminator(sr, hr, discriminator)
            losses["validation_discriminator"] = float(loss)
            discriminator.train()
        return losses

    def _adversarial(self, sr: Tensor, discriminator: nn.Module | None) -> Tensor:
        if discriminator is None:
            raise RecipeError(
                "losses have 'adversarial', but there is no discriminator; set one, or leave it out"
            )
        fake = discriminator(sr)
        return GAN_LOSSES["vanilla"].generator(fake, fake)


def _feature_losses(recipe: TrainRecipe) -> set[str]:
    return {*recipe.losses, *recipe.pretrain_losses} & set(FEATURE_LOSSES)


def _load(recipe: TrainRecipe, name: str, files: FeatureFiles) -> nn.Module:
    network, made = _NETWORKS[name]
    file = files.find(network)
    try:
        return made(file)
    except ValueError as error:
        places = ", ".join(map(str, files.places))
        among = f"no file of {places} is called {network}...: " if places and file is None else ""
        raise RecipeError(
            f"the loss {name!r} of {recipe.name} cannot be computed: {among}{error}"
        ) from error


def total(losses: Iterable[Tensor]) -> Tensor:
    """Return the sum of losses."""
    return torch.stack(list(losses)).sum()
