"""What the folder of a training holds, and whether a training may begin or go on there.

The command line reads a request for a training, and this module with it, before it prints its
help. So this imports nothing heavy: what a check needs, the check imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import StoreError, UsageError

if TYPE_CHECKING:
    from pipeline.storage.store import Place

LAST, BEST = "last.safetensors", "best.safetensors"
"""The averaged weights of the last validation, and of the best one."""

STATE, RECIPE = "state.safetensors", "recipe.toml"
"""What resuming needs, and the recipe as resolved."""

METRICS, CURVES = "metrics.csv", "curves.png"
"""The figures of every validation, and the same drawn."""

CHECKPOINTS = "checkpoints"
"""Folder of the last few models, by their step."""


def files_of_steps(out_dir: Place) -> list[Place]:
    """Return which files that only a training with steps writes are there: state, last, best."""
    return [out_dir / name for name in (STATE, LAST, BEST) if (out_dir / name).exists()]


def check_folder(out_dir: Place, *, resume: bool) -> None:
    """Make sure that a training may begin, or go on, in a folder.

    Raises:
        UsageError: if it holds one that is not to be resumed, or none that could be.
    """
    from pipeline.storage.store import BucketPlace
    from pipeline.tables import is_utf8

    if not is_utf8(str(out_dir)):
        raise UsageError(f"{str(out_dir)!r} is not UTF-8; name another folder")
    left = files_of_steps(out_dir)
    if left and left[0].name == STATE:
        if resume:
            return
        raise UsageError(f"{out_dir} holds a training already; add --resume or name another folder")
    if left:
        initial = f"--set initial={left[0]}"
        if isinstance(out_dir, BucketPlace):
            initial = f"a copy of {left[0]} on a disk as --set initial=FILE"
        raise UsageError(
            f"{out_dir} holds a training whose {STATE} is gone, so that it cannot go on; name "
            f"another folder, with {initial} to begin with what it learned"
        )
    if resume:
        raise UsageError(
            f"{out_dir} cannot be resumed: it holds no {STATE}; is --out right? Without --resume a "
            "training begins there"
        )


def check_own_files(out_dir: Place) -> None:
    """Make sure that a new training replaces no file that none wrote, such as a recipe by hand.

    Nor does it move in among pictures: these would count as its own from then on.

    Raises:
        UsageError: if there is one.
    """
    from pipeline.pictures.kinds import is_readable_name
    from pipeline.recipes.training import load_recipe
    from pipeline.storage.store import is_taken

    names = sorted(path.name for path in out_dir.iterdir()) if out_dir.is_dir() else []
    picture = next((n for n in names if is_readable_name(n) and n != CURVES), None)
    if picture is not None:
        raise UsageError(
            f"{out_dir} holds pictures, such as {picture}; name a folder of its own with --out"
        )
    recipe = out_dir / RECIPE
    try:
        own = load_recipe(str(recipe), whole=True).to_toml() == recipe.read_text(encoding="utf-8")
    except StoreError:
        raise
    except (OSError, ValueError):
        own = False
    name = next((n for n in (RECIPE, METRICS, CURVES) if is_taken(out_dir / n)), None)
    if name is not None and not own:
        raise UsageError(
            f"{out_dir / name} was not written by a training, which would replace it; name "
            "another folder with --out"
        )
