"""Systems whose weights do not come with upres: the recipes that train them, and how."""

from __future__ import annotations

from pathlib import Path

from models import registry
from models.checkpoint import unknown
from pipeline.recipes.files import read_recipe, recipe_names
from pipeline.recipes.training import FEATURE_LOSSES, load_recipe

_BEST = "best.safetensors"


def names_without_weights() -> list[str]:
    """Return the names of the recipes that train a network whose weights are not shipped."""
    shipped = registry.shipped()
    return [n for n in recipe_names() if n not in shipped and "architecture" in read_recipe(n)]


def train_command(name: str) -> str:
    """Return what to type to train by a recipe; words in capitals are the user's own."""
    recipe = load_recipe(name)
    losses = recipe.losses.keys() | recipe.pretrain_losses.keys()
    features = " --features DIR" if losses & set(FEATURE_LOSSES) else ""
    return f"upres train PICTURES --recipe {name} --out DIR{features}"


def why_no_model(name_or_file: str) -> str:
    """Return what to do about a name that leads to no weights, in one line."""
    names = names_without_weights()
    if Path(name_or_file).is_dir():
        return f"{name_or_file} is a folder; name a file, as in {Path(name_or_file, _BEST)}"
    if name_or_file not in names:
        return unknown(name_or_file, [*registry.names(), *names])
    return (
        f"no weights are shipped for {name_or_file}; train it with "
        f"`{train_command(name_or_file)}` and name the file, DIR/{_BEST}"
    )
