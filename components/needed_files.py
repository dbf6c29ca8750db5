"""Files that a run needs before it starts: where each is read from and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ablate.components.checkpoints.files import CheckpointError, check_weights


@dataclass(frozen=True)
class NeededFile:
    """A file or folder that must be there before a run, as it was found.

    Attributes:
        what: it is, in a word or two.
        path: where it is read from.
        origin: where it is officially published, and by which name; empty if that is not known.
        size: as it is published there; empty if it is not.
        problem: what is wrong with what is there; empty if nothing is.
    """

    what: str
    path: Path
    origin: str = ""
    size: str = ""
    problem: str = ""

    @property
    def state(self) -> Literal["there", "missing", "damaged"]:
        if not self.path.exists():
            return "missing"
        return "damaged" if self.problem else "there"


def needed_weights(hub_names: Sequence[str], weights: str = "none") -> list[NeededFile]:
    """The weights that a component is built with.

    Args:
        hub_names: what it asks the hub for.
        weights: its argument, where that may also be a path.
    """
    if hub_names or weights in ("none", "pretrained"):
        return [_of_the_hub(name) for name in hub_names]
    path = Path(weights).expanduser()
    return [NeededFile("weights", path, problem=_problem(path))]


def _of_the_hub(name: str) -> NeededFile:
    """A model's weights in the hub's cache, where they are downloaded when first asked for."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    main = folder / "refs" / "main"
    problem = "was not downloaded to its end"
    if main.is_file():
        snapshot = folder / "snapshots" / main.read_text().strip()
        problem = _problem(snapshot) if snapshot.is_dir() else problem
    return NeededFile("weights", folder, f"huggingface.co/{name}", problem=problem)


def _problem(path: Path) -> str:
    """What is wrong with weights that are there."""
    try:
        if path.exists():
            check_weights(path)
    except CheckpointError as error:
        return str(error)
    return ""
