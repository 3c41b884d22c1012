"""Losses for NumPyro that estimate log p(x) without bias up to the end of a random tail."""

from ._version import __version__
from .certificates import (
    LOO,
    Certificate,
    Comparison,
    WarmStart,
    certify,
    compare_certificates,
    load,
    loo,
    save,
    to_arviz,
    warm_start,
)
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
from .guides import AutoHierarchicalNormal, HierarchicalGuide, Placement, place
from .inference import FitOptions, Posterior, fit
from .losses import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from .mcmc import IndependenceMetropolis
from .optim import averaged_adam

__all__ = [
    "IWELBO",
    "IWHVI",
    "LOO",
    "SUMO",
    "__version__",
    "AutoHierarchicalNormal",
    "Certificate",
    "Comparison",
    "FitOptions",
    "HierarchicalGuide",
    "IndependenceMetropolis",
    "KLDivergence",
    "KLSandwich",
    "LogEvidence",
    "MultilevelSUMO",
    "Placement",
    "Posterior",
    "ReverseKL",
    "StandardErrors",
    "WaldTable",
    "WarmStart",
    "averaged_adam",
    "certify",
    "compare_certificates",
    "fit",
    "kl_divergence",
    "kl_sandwich",
    "load",
    "log_evidence",
    "log_marginal",
    "loo",
    "place",
    "save",
    "standard_errors",
    "to_arviz",
    "warm_start",
]
