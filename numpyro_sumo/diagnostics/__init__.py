"""How far to trust a guide: certificates, bounds on KL, log-evidence, and reports under ArviZ."""

from .certificate import Certificate, certify
from .kl_divergence import KLDivergence, kl_divergence
from .kl_sandwich import KLSandwich, kl_sandwich, log_marginal
from .log_evidence import LogEvidence, log_evidence

__all__ = [
    "Certificate",
    "KLDivergence",
    "KLSandwich",
    "LogEvidence",
    "certify",
    "kl_divergence",
    "kl_sandwich",
    "log_evidence",
    "log_marginal",
]
