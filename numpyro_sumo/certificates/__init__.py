"""Is a fit any good? Certificates of guides, and what can be done with them."""

from .certificate import Certificate
from .certify import certify

__all__ = ["Certificate", "certify"]
