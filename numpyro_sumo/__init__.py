"""Unbiased evidence for NumPyro: losses that train on log p(x) itself, not on a lower bound."""

from ._version import __version__
from .auto_hierarchical import AutoHierarchicalNormal
from .certificate import Certificate, certify
from .divergence import KLDivergence, kl_divergence
from .evidence import LogEvidence, log_evidence
from .hierarchical_guide import HierarchicalGuide
from .independence_metropolis import IndependenceMetropolis
from .losses import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from .sandwich import KLSandwich, kl_sandwich, log_marginal

__all__ = [
    "IWELBO",
    "IWHVI",
    "SUMO",
    "AutoHierarchicalNormal",
    "Certificate",
    "HierarchicalGuide",
    "IndependenceMetropolis",
    "KLDivergence",
    "KLSandwich",
    "LogEvidence",
    "MultilevelSUMO",
    "ReverseKL",
    "__version__",
    "certify",
    "kl_divergence",
    "kl_sandwich",
    "log_evidence",
    "log_marginal",
]
