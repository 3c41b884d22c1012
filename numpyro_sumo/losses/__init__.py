"""The losses that go where ``Trace_ELBO()`` goes."""

from .iwelbo import IWELBO
from .iwhvi import IWHVI
from .multilevel_sumo import MultilevelSUMO
from .reverse_kl import ReverseKL
from .sumo import SUMO

__all__ = ["IWELBO", "IWHVI", "SUMO", "MultilevelSUMO", "ReverseKL"]
