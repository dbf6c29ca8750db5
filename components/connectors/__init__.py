"""Connectors, registered by name in ``CONNECTORS``."""

from components.connectors.base import CONNECTORS, Connector
from components.connectors.ldp import LDPv2
from components.connectors.linear import LinearConnector
from components.connectors.mlp import MLPConnector
from components.connectors.msc import MSCAdvanced, MSCBasic
from components.connectors.msc_code import MSCCode
from components.connectors.vss import VSSConnector

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
