"""The checkpoint of the ML-Mamba authors' release: a file of ``torch.save``.

It holds a dict, possibly under "model", of four: ``mlp`` (Linear and GELU), ``bidirectional_mamba``
(two blocks and a norm), ``projector`` (the three-layer MLP) and ``llm_backbone`` (a state-spaces
model). The first three are our ``msc-code`` connector, the last a ``mamba2`` backbone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ablate.components.checkpoints.files import CheckpointError, read_object
from ablate.components.checkpoints.matching import copy, matched
from ablate.components.checkpoints.state_spaces import TABLES

_PARTS = ("mlp", "bidirectional_mamba", "projector", "llm_backbone")

# The release's names (part and key) and ours; the first pattern that matches counts.
_CONNECTOR_NAMES = (
    (r"mlp\.", r"projection."),
    (r"projector\.projector\.", r"mlp."),
    (
        r"bidirectional_mamba\.layers\.(\d+)\.mixer\.(conv1d|dt_bias|A_log|D)_b\b",
        r"blocks.\1.mixer.backward_scan.\2",
    ),
    (r"bidirectional_mamba\.layers\.(\d+)\.mixer\.", r"blocks.\1.mixer.mixer."),
    (r"bidirectional_mamba\.layers\.(\d+)\.norm\.", r"blocks.\1.norm."),
    (r"bidirectional_mamba\.layers\.(\d+)\.mlp\.", r"blocks.\1.gate."),
    (r"bidirectional_mamba\.norm_f\.", r"norm."),
)


def load_ml_mamba(
    path: Path, connector: nn.Module, backbone: nn.Module, *, vocabulary: int = 0
) -> None:
    """Load the released model's connector and backbone, both of them or neither.

    Args:
        path: the release's file.
        connector: an ``msc-code`` connector.
        backbone: a ``mamba2`` backbone.
        vocabulary: the fewest rows that the checkpoint's embedding may have.

    Raises:
        CheckpointError: a damaged file, one of another layout, or weights that do not match.
    """
    parts = _read_parts(path)
    ours = {
        _renamed(f"{part}.{key}"): value
        for part in _PARTS[:3]
        for key, value in parts[part].items()
    }
    pairs = matched(connector, ours, path)
    pairs += matched(backbone, parts["llm_backbone"], path, tables=TABLES, least_rows=vocabulary)
    copy(pairs)


def _read_parts(path: Path) -> Mapping[str, Mapping[str, Tensor]]:
    held = read_object(path)
    if isinstance(held, dict) and isinstance(held.get("model"), dict):
        held = held["model"]
    found = sorted(map(str, held)) if isinstance(held, dict) else []
    if found != sorted(_PARTS) or not all(isinstance(held[part], dict) for part in _PARTS):
        raise CheckpointError(
            path,
            f"holds {', '.join(found[:6]) or 'no dict'}, and a checkpoint of ML-Mamba's release "
            f"holds {', '.join(_PARTS)}, each a dict of tensors",
        )
    return held


def _renamed(name: str) -> str:
    for pattern, replacement in _CONNECTOR_NAMES:
        ours, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return ours
    return name
