"""MCMC kernels that propose from a trained guide."""

from .independence_metropolis import IndependenceMetropolis

__all__ = ["IndependenceMetropolis"]
