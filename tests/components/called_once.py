"""Whether modules are called as wholes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def assert_called_once(units: list[nn.Module], run: Callable[[], Any]) -> None:
    """See that ``run`` calls each unit once, in order."""
    called: list[nn.Module] = []
    hooks = [each.register_forward_hook(lambda unit, *_: called.append(unit)) for each in units]
    run()
    for hook in hooks:
        hook.remove()
    assert called == units
