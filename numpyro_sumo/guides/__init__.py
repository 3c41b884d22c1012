"""Guides with auxiliary variables, and what evaluates their densities."""

from .auto_hierarchical import AutoHierarchicalNormal
from .hierarchical import HierarchicalGuide
from .placement import Placement, place

__all__ = ["AutoHierarchicalNormal", "HierarchicalGuide", "Placement", "place"]
