"""Connectors, registered by name in ``CONNECTORS``."""

from components.connectors.base import CONNECTORS, Connector
from components.connectors.linear import LinearConnector
from components.connectors.mlp import MLPConnector

__all__ = ["CONNECTORS", "Connector", "LinearConnector", "MLPConnector"]
