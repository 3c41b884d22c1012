"""Is a fit any good? Certificates of guides, and what can be done with them."""

from .certificate import Certificate
from .certify import certify
from .comparison import Comparison, compare_certificates
from .loo import LOO, loo
from .saving import load, save
from .to_arviz import to_arviz
from .warm_start import WarmStart, warm_start

__all__ = [
    "LOO",
    "Certificate",
    "Comparison",
    "WarmStart",
    "certify",
    "compare_certificates",
    "load",
    "loo",
    "save",
    "to_arviz",
    "warm_start",
]
