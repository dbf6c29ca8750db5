"""A module's tensors against a checkpoint's: differences are named before anything is copied."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ablate.components.checkpoints.files import CheckpointError

OTHER_MODEL = "use a checkpoint of this very model, or build the model it is of"
DAMAGED = "the weights are damaged or of another model; get them again"

_SHOWN = 4


def matched(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path,
    *,
    tables: Collection[str] = (),
    least_rows: int = 0,
) -> list[tuple[Tensor, Tensor]]:
    """Pair each of the module's tensors with the checkpoint's of the same name.

    Of names that share one tensor in the module (a tied head), the checkpoint may hold any.

    Args:
        module: what is to be loaded.
        tensors: the checkpoint's, by the module's names.
        source: the checkpoint's path, for messages.
        tables: vocabulary tables, of which the checkpoint may have only the first rows: the
            module's further rows are padding or new tokens and keep their initial values.
        least_rows: the fewest rows of such a table.

    Returns:
        Pairs (of the module, of the checkpoint) for ``copy``.

    Raises:
        CheckpointError: keys that are missing, unknown or of another shape, tied weights that
            differ, or values that are not finite. Nothing has been changed.
    """
    shared = _shared(module)
    known = {name for names in shared.values() for name in names}
    own = dict(module.state_dict(keep_vars=True))
    problems = {
        "missing": [n[0] for n in shared.values() if not any(name in tensors for name in n)],
        "unknown": [name for name in tensors if name not in known],
        "misshaped": [
            f"{name} is {_shape(tensors[name])} and must be {_shape(own[name])}"
            for name in own
            if name in tensors
            and not _fits(tensors[name], own[name], least_rows if name in tables else None)
        ],
    }
    refuse(problems, source, OTHER_MODEL)
    held = {id_: [name for name in names if name in tensors] for id_, names in shared.items()}
    problems = {
        "tied here but different there": [
            f"{names[0]} and {name}"
            for names in held.values()
            for name in names[1:]
            if not torch.equal(tensors[names[0]], tensors[name])
        ],
        **not_finite(tensors),
    }
    refuse(problems, source, DAMAGED)
    return [(own[names[0]], tensors[names[0]]) for names in held.values()]


@torch.no_grad()
def copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy the checkpoint's tensors into the module's, of whatever dtype and device these are."""
    for target, value in pairs:
        rows = target[: len(value)] if target.dim() else target
        rows.copy_(value)


def distinct(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors by name, each once where names share one, as safetensors needs them."""
    own = module.state_dict()
    return {names[0]: own[names[0]].contiguous() for names in _shared(module).values()}


def _shared(module: nn.Module) -> dict[int, list[str]]:
    """The names of each tensor; more than one where weights are tied."""
    names: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    return names


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _fits(value: Tensor, target: Tensor, least_rows: int | None) -> bool:
    if least_rows is None or value.dim() == 0:
        return value.shape == target.shape
    return value.shape[1:] == target.shape[1:] and least_rows <= len(value) <= len(target)


def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of tensors with a value that is no number, as a problem for ``refuse``."""
    return {"not finite (NaN or infinite)": [n for n, t in tensors.items() if not _finite(t)]}


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def refuse(problems: Mapping[str, Sequence[str]], source: Path, remedy: str) -> None:
    """Raise one error that names the first few keys of each kind of problem.

    Args:
        problems: what is wrong with which keys.
        source: the checkpoint's path.
        remedy: what to do.

    Raises:
        CheckpointError: there is any key.
    """
    found = []
    for kind, names in problems.items():
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{rest}")
    if found:
        raise CheckpointError(source, f"{'; '.join(found)}. Nothing was loaded; {remedy}")
