"""Unbiased evidence for NumPyro: losses that train on log p(x) itself, not on a lower bound."""

from numpyro_sumo.diagnostics.certificate import Certificate, certify
from numpyro_sumo.diagnostics.kl_divergence import KLDivergence, kl_divergence
from numpyro_sumo.diagnostics.kl_sandwich import KLSandwich, kl_sandwich, log_marginal
from numpyro_sumo.diagnostics.log_evidence import LogEvidence, log_evidence
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.hierarchical import HierarchicalGuide
from numpyro_sumo.mcmc.independence_metropolis import IndependenceMetropolis

from ._version import __version__
from .losses import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL

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
