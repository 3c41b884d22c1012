"""Losses for NumPyro that estimate log p(x) without bias up to the end of a random tail."""

from ._version import __version__
from .certificates import Certificate, certify
from .diagnostics import (
    KLDivergence,
    KLSandwich,
    LogEvidence,
    StandardErrors,
    WaldTable,
    kl_divergence,
    kl_sandwich,
    log_evidence,
    log_marginal,
    standard_errors,
)
from .guides import AutoHierarchicalNormal, HierarchicalGuide
from .losses import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from .mcmc import IndependenceMetropolis
from .optim import averaged_adam

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
    "StandardErrors",
    "WaldTable",
    "__version__",
    "averaged_adam",
    "certify",
    "kl_divergence",
    "kl_sandwich",
    "log_evidence",
    "log_marginal",
    "standard_errors",
]
