"""ablate: ablation experiments for multimodal language models that a reader can believe.

The classes to extend are here by their names: ``from ablate import Connector``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.components.backbones.base import Backbone
    from ablate.components.connectors.base import Connector
    from ablate.components.encoders.base import Encoder
    from ablate.data.base import DataSet
    from ablate.data.benchmarks.base import Benchmark

__all__ = ["Backbone", "Benchmark", "Connector", "DataSet", "Encoder"]

_MODULES = {
    "Backbone": "ablate.components.backbones.base",
    "Benchmark": "ablate.data.benchmarks.base",
    "Connector": "ablate.components.connectors.base",
    "DataSet": "ablate.data.base",
    "Encoder": "ablate.components.encoders.base",
}


def __getattr__(name: str) -> Any:
    """Import a role's class when it is first asked for: that takes seconds, and help must not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
