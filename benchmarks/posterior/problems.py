"""What a problem of the posterior benchmark is: a model, what is judged, and how to train."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import numpy as np

import jax

from numpyro.handlers import seed, trace
from numpyro.infer.util import log_density

from benchmarks.common.distributions import Univariate
from numpyro_sumo.programs.sites import latent_sites

Draws = dict[str, np.ndarray]


class Effort(NamedTuple):
    """How a learned sampler is trained.

    :param guide: keyword arguments of AutoHierarchicalNormal.
    :param particles: draws of x in each step, and draws of u for each of them.
    :param second_moment_decay: Adam's; 0.99 averages over 100 steps, so that a rare large gradient
        does not shrink the following steps for long.
    :param inverse_temperature: initial factor on the log-density; it rises to one geometrically
        over the first 70 % of the steps.
    :param alternated: whether Metropolis proposals alternate with steps of NUTS.
    """

    steps: int
    learning_rate: float = 2e-3
    guide: dict[str, Any] = {}
    particles: tuple[int, int] = (64, 16)
    max_gradient_norm: float = 100.0
    second_moment_decay: float = 0.99
    inverse_temperature: float = 1.0
    alternated: bool = False


class Chains(NamedTuple):
    """How NUTS makes a reference: four chains of a reparameterised model.

    :param model: has the latent sites of the original model, some of them deterministic.
    :param more: draws of each chain between two checks of R-hat and ESS.
    :param most: the largest number of such checks.
    """

    model: Callable
    target_accept: float = 0.95
    dense_mass: bool | list[tuple[str, ...]] = False
    warmup: int = 1_000
    more: int = 4_000
    most: int = 40


class Problem(NamedTuple):
    """A target and what is known about it.

    :param model: in its usual form; every coordinate of its latent sites is judged.
    :param labels: names of sites in tables, where they differ from the site's own.
    :param logged: sites that are judged on the log scale.
    :param shown: the quantities with tables and pictures of their own.
    :param pair: two quantities that are plotted against each other.
    :param exact: the distribution of every quantity, where known; such a model has exact draws.
    :param chains: how the reference is made if there are no exact draws.
    :param log_evidence: in nats, where known.
    """

    name: str
    title: str
    model: Callable
    effort: Effort
    shown: tuple[str, ...]
    pair: tuple[str, str]
    args: tuple = ()
    labels: dict[str, str] = {}
    logged: frozenset[str] = frozenset()
    exact: dict[str, Univariate] | None = None
    chains: Chains | None = None
    log_evidence: float | None = None

    def quantities(self, draws: Draws) -> Draws:
        """Every coordinate of every latent site by its name, as it is judged.

        :param draws: arrays of shape ``(chain, draw, ...)`` by site.
        :return: arrays of shape ``(chain, draw)``.
        """
        named: Draws = {}
        for site in self.shapes():
            values = np.asarray(draws[site])
            values = values.reshape(*values.shape[:2], *(n for n in values.shape[2:] if n > 1))
            name = self.labels.get(site, site)
            if site in self.logged:
                # A positive draw may underflow to zero in single precision.
                values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
                name = f"log {name}"
            for index in np.ndindex(values.shape[2:]):
                where = f"[{','.join(map(str, index))}]" if index else ""
                named[name + where] = values[(..., *index)]
        return named

    def dimension(self) -> int:
        """The number of coordinates of all latent sites."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every latent site of the model, by name."""

        def latents():
            sites = latent_sites(trace(seed(self.model, 0)).get_trace(*self.args))
            return {name: site["value"] for name, site in sites.items()}

        return {name: value.shape for name, value in jax.eval_shape(latents).items()}

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values."""
        effort = self.effort
        values = {
            "title": self.title,
            "dimension": self.dimension(),
            "log_joint": log_joint(self.model, self.args),
            "log_evidence": self.log_evidence,
            "steps": effort.steps,
            "learning_rate": effort.learning_rate,
            "max_gradient_norm": effort.max_gradient_norm,
            "second_moment_decay": effort.second_moment_decay,
            "inverse_temperature": effort.inverse_temperature,
            "particles": list(effort.particles),
            "guide": {key: repr(value) for key, value in effort.guide.items()},
        }
        return values | ({"alternated": True} if effort.alternated else {})


def log_joint(model: Callable, args: tuple) -> float:
    """The log-density at a fixed draw from the prior: identifies the model and its data."""
    value = jax.jit(lambda: log_density(seed(model, 0), args, {}, {})[0])()
    return float(f"{value:.5g}")  # more digits would depend on rounding
