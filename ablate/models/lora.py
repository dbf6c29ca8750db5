"""Low-rank adapters on a component's linear layers, through the peft library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.components.backbones import Backbone
from ablate.components.checkpoints import distinct
from ablate.components.registry import nearest
from ablate.config.schema import LoraConfig

_ADAPTER = "default"
_ADAPTED = ".base_layer."

READ_AS_WEIGHTS = ("dt_proj",)
"""Linear layers whose weights a scan reads without calling them: an adapter would be left out."""


def add_adapters(component: nn.Module, config: LoraConfig) -> None:
    """Put adapters on linear layers of the component, in place; only they remain trainable.

    A component that has adapters is left as it is.

    Without ``config.targets``, every linear layer has one, but for a backbone's output head (whose
    weights are often the embedding's) and Mamba-1's ``dt_proj``. Adapters start as a zero change,
    drawn from torch's global generator.

    Raises:
        ValueError: a target is no linear layer of the component, cannot have an adapter, or there
            is none at all.
    """
    # peft imports all of transformers, which takes seconds, and only adapters need it.
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    if any(isinstance(module, LoraLayer) for module in component.modules()):
        return
    head = _head(component) if isinstance(component, Backbone) else set()
    names = [
        name
        for name, module in component.named_modules()
        if isinstance(module, nn.Linear)
        and module not in head
        and name.rpartition(".")[2] not in READ_AS_WEIGHTS
    ]
    known = sorted({name.rpartition(".")[2] for name in names})
    for target in config.targets:
        if target not in known:
            raise ValueError(f"lora.targets: no linear layer {target!r}; {nearest(target, known)}")
    if config.targets:
        names = [name for name in names if name.rpartition(".")[2] in config.targets]
    if not names:
        raise ValueError("has no linear layer to put an adapter on; choose another policy")
    settings = PeftConfig(
        r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names
    )
    inject_adapter_in_model(settings, component, adapter_name=_ADAPTER)


@torch.no_grad()
def merged(component: nn.Module) -> dict[str, Tensor]:
    """The component's tensors as without adapters: what these add is in the weights under them.

    Returns:
        Tensors by name, each once where names share one; equal to the adapted layers to rounding.
    """
    tensors = distinct(component)
    if not any(_ADAPTED in name for name in tensors):
        return tensors
    from peft.tuners.lora import Linear

    for name, layer in component.named_modules():
        if isinstance(layer, Linear):
            weight = tensors[f"{name}{_ADAPTED}weight"]
            tensors[f"{name}{_ADAPTED}weight"] = weight + layer.get_delta_weight(_ADAPTER)
    return {
        name.replace(_ADAPTED, "."): value
        for name, value in tensors.items()
        if ".lora_" not in name
    }


@torch.no_grad()
def _head(backbone: Backbone) -> set[nn.Module]:
    """The modules that the backbone's ``head`` calls, whatever their names."""
    called: set[nn.Module] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        for module in backbone.modules()
    ]
    weight = next(backbone.parameters())
    backbone.head(torch.zeros(1, backbone.d_model, device=weight.device, dtype=weight.dtype))
    for hook in hooks:
        hook.remove()
    return called
