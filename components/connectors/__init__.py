"""Connectors, registered by name in ``CONNECTORS``."""

from ablate.components.connectors.base import CONNECTORS, Connector
from ablate.components.connectors.ldp import LDPv2
from ablate.components.connectors.linear import LinearConnector
from ablate.components.connectors.mlp import MLPConnector
from ablate.components.connectors.msc import MSCAdvanced, MSCBasic
from ablate.components.connectors.msc_code import MSCCode
from ablate.components.connectors.vss import VSSConnector

__all__ = [
    "CONNECTORS",
    "Connector",
    "LDPv2",
    "LinearConnector",
    "MLPConnector",
    "MSCAdvanced",
    "MSCBasic",
    "MSCCode",
    "VSSConnector",
]
