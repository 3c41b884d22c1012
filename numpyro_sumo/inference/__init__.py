"""From a model to draws of its posterior in one call."""

from .fit import fit
from .options import FitOptions
from .posterior import Posterior

__all__ = ["FitOptions", "Posterior", "fit"]
