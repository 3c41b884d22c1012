"""Unbiased evidence for NumPyro: losses that train on log p(x) itself, not on a lower bound."""

from ._version import __version__
from .divergence import KLDivergence, kl_divergence
from .evidence import LogEvidence, log_evidence
from .hierarchical_guide import HierarchicalGuide
from .losses import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from .sandwich import KLSandwich, kl_sandwich, log_marginal

__all__ = [
    "IWELBO",
    "IWHVI",
    "SUMO",
    "HierarchicalGuide",
    "KLDivergence",
    "KLSandwich",
    "LogEvidence",
    "MultilevelSUMO",
    "ReverseKL",
    "__version__",
    "kl_divergence",
    "kl_sandwich",
    "log_evidence",
    "log_marginal",
]
