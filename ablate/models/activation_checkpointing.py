"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174) of any component's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(component: nn.Module) -> None:
    """Make the component's layers keep their inputs alone and run again in the backward pass.

    Layers are the members of a list of modules of one class, such as a transformer's blocks. One
    that is never called as a whole has its parts checkpointed instead; one that has a ``recompute``
    of its own is told.
    """
    layer: Any
    for layer in repeated_layers(component):
        if hasattr(layer, "recompute"):
            layer.recompute = True
            continue
        parts = [layer] if _is_callable(layer) else list(layer.children())
        for part in parts:
            if "forward" not in vars(part):  # a planned component may come here twice
                part.forward = _recomputed(part.forward)


def repeated_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost layers inside ``module``, of lists of at least one module of one class."""
    members = list(module.children())
    is_list = isinstance(module, nn.ModuleList | nn.Sequential)
    alike = len({type(member) for member in members}) == 1
    composed = all(any(True for _ in member.children()) for member in members)
    components = any(isinstance(member, pl.LightningModule) for member in members)
    if is_list and alike and composed and not components:
        yield from members
        return
    for member in members:
        yield from repeated_layers(member)


def _is_callable(layer: nn.Module) -> bool:
    return type(layer).forward is not nn.Module.forward


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return wrapper
