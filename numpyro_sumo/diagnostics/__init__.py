"""How far to trust a fit: KL, log-evidence, standard errors; and ArviZ."""

from .kl_divergence import KLDivergence, kl_divergence
from .kl_sandwich import KLSandwich, kl_sandwich, log_marginal
from .log_evidence import LogEvidence, log_evidence
from .standard_errors import standard_errors
from .wald import StandardErrors, WaldTable

__all__ = [
    "KLDivergence",
    "KLSandwich",
    "LogEvidence",
    "StandardErrors",
    "WaldTable",
    "kl_divergence",
    "kl_sandwich",
    "log_evidence",
    "log_marginal",
    "standard_errors",
]
