"""Connectors, registered by name in ``CONNECTORS``."""

from components.connectors.base import CONNECTORS, Connector

__all__ = ["CONNECTORS", "Connector"]
