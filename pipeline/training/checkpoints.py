"""What a training writes into its folder to go on from, and to be used: state and models."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from models import checkpoint
from pipeline.storage.access import EVERYONE, make_folder
from pipeline.storage.atomic import write_atomic
from pipeline.training.folder import BEST, CHECKPOINTS, LAST, RECIPE, STATE
from pipeline.training.networks import model_spec
from pipeline.training.state import stored_step

if TYPE_CHECKING:
    from pipeline.training.session import Session

_NUMBERED = r"[0-9]{8,}\.safetensors"
_SAFE_RATE = 1e-3
"""What is advised at most where a training blew up."""
_SAVED_EVERY_S, _SAVING_SHARE = 60.0, 0.05
"""How often the state is saved, and the share of the time that saving it may take at most.

A training that is killed loses no more than that, and repeats those steps exactly.
"""


class Checkpoints:
    """Writes state and models of a session, and nothing that is not worth keeping."""

    def __init__(self, session: Session) -> None:
        self.session, self.out_dir = session, session.settings.out_dir
        self._has_state = session.settings.resume
        self._kept_recipe = session.kept_recipe
        self._saved_at, self._saving_s = time.monotonic(), 0.0

    @property
    def state_is_due(self) -> bool:
        """Return whether no state is kept yet, or the last one is a minute old."""
        every_s = max(_SAVED_EVERY_S, self._saving_s / _SAVING_SHARE)
        return not self._has_state or time.monotonic() - self._saved_at > every_s

    def save_state(self) -> None:
        """Write what resuming needs, unless the weights are about to be lost, or are."""
        session, began = self.session, time.monotonic()
        if session.processes.leads and not session.state.skipped and session.is_sound():
            self._write_state(session.state.to_bytes())
            self._kept_recipe, self._has_state = None, True
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - began

    def _write_state(self, content: bytes) -> None:
        claim = self.session.settings.claim
        if claim is None:
            write_atomic(self.out_dir / STATE, content)
        else:
            claim.keep(content)

    def write_models(self, *, best: bool) -> None:
        """Write the averaged weights as the last model, and as the best one where it is."""
        content = self._content()
        write_atomic(self.out_dir / LAST, content)
        if best:
            write_atomic(self.out_dir / BEST, content)

    def write_numbered(self) -> None:
        """Write the averaged weights by their step, and drop the oldest of more than `keep`."""
        state = self.session.state
        if state.skipped or not self.session.is_sound():
            # None that is good makes room for it.
            return
        folder = self.out_dir / CHECKPOINTS
        make_folder(folder, EVERYONE)
        write_atomic(folder / f"{state.step:08}.safetensors", self._content())
        numbered = sorted(p for p in folder.iterdir() if re.fullmatch(_NUMBERED, p.name))
        # Those of later steps are of a training before this one.
        own = [path for path in numbered if int(path.name.partition(".")[0]) <= state.step]
        for old in own[: -self.session.recipe.keep]:
            old.unlink()

    def advice(self, why: str) -> str:
        """Return why a training failed, what of its folder is good, and how to go on.

        The recipe of the state that stays is put back, so that going on means going on by it.
        """
        out, recipe = self.out_dir, self.session.recipe
        rate = recipe.learning_rate
        lower = f"--set learning_rate={min(rate / 10, _SAFE_RATE):g}"
        if self._kept_recipe is not None and self.session.processes.leads:
            write_atomic(out / RECIPE, self._kept_recipe)
            if self._kept_recipe != recipe.to_toml().encode():
                lower = "without what was set now"
        if not (out / STATE).exists():
            return f"training diverged: {why}; nothing of it is kept, begin again with {lower}"
        kept = stored_step(out / STATE)
        return (
            f"training diverged: {why}; what {out} holds is good, of step {kept} and before: go "
            f"on with `upres train {self.session.dataset.path} --out {out} --resume`, {lower} (now "
            f"{rate:g}) or lower weights of losses"
        )

    def _content(self) -> bytes:
        session = self.session
        spec = model_spec(session.recipe, data=session.settings.data)
        return checkpoint.to_bytes(spec, session.state.average.state_dict())
