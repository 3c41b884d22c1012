"""Wald tables of estimates: standard errors, z, intervals, and the delta method."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import norm

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from numpyro.distributions import biject_to

from numpyro_sumo.programs.model_params import ModelParams, names_of

from .information import Covariances

#: Constraint (None for none) and shape of an array of scalars.
Group = tuple[Any, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class WaldTable:
    """Estimates with standard errors and intervals; ``print`` shows them as a table.

    All arrays have shape ``(num,)``, one entry for each scalar.

    :param names: of the scalars, "beta[0]" for instance.
    :param estimate: their values.
    :param se: standard errors from the observed information.
    :param se_sandwich: standard errors from the sandwich, which stay right in large samples if the
        model is not; None without independent data.
    :param mc_se: Monte Carlo standard error of ``se``; likewise ``mc_se_sandwich``.
    :param z: estimate by its standard error, to test whether it is zero; NaN for a scalar with a
        constraint, whose zero is no ordinary value.
    :param lower: end of the Wald interval, as is ``upper``.
    :param level: of the intervals.
    :param robust: whether z and intervals are those of the sandwich.
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    se: np.ndarray
    mc_se: np.ndarray
    se_sandwich: np.ndarray | None
    mc_se_sandwich: np.ndarray | None
    z: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float
    robust: bool

    def __str__(self) -> str:
        ends = [f"{100.0 * (1.0 + sign * self.level) / 2.0:g} %" for sign in (-1, 1)]
        columns = {"estimate": self.estimate, "se": self.se}
        if self.se_sandwich is not None:
            columns["sandwich se"] = self.se_sandwich
        columns |= {"z": self.z, ends[0]: self.lower, ends[1]: self.upper}
        cells = [list(columns)]
        for row in zip(*columns.values()):
            named = zip(columns, row)
            cells.append(["" if np.isnan(v) else _shown(v, name == "z") for name, v in named])
        widths = [max(map(len, column)) for column in zip(*cells)]
        first = max(map(len, self.names))
        return "\n".join(
            name.ljust(first) + "".join("  " + c.rjust(w) for c, w in zip(line, widths))
            for name, line in zip(("", *self.names), cells)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class StandardErrors(WaldTable):
    """Standard errors of a maximum-likelihood fit; see :class:`WaldTable` for its columns.

    P is the number of scalar parameters, F that of their unconstrained values, which is smaller
    where a constraint ties scalars together (a simplex has one less).

    :param covariance: of the estimates, from the observed information, shape ``(P, P)``.
    :param covariance_sandwich: the same from the sandwich, or None.
    :param log_likelihood: estimate of log p(x) at the params, in nats.
    :param log_likelihood_mc_se: its Monte Carlo standard error.
    :param free_names: names of the unconstrained scalars, "log(sigma)" for instance.
    :param information: −∇² log p(x) in unconstrained space, shape ``(F, F)``.
    :param scores: the gradient of log p of each datum in unconstrained space, shape
        ``(num_data, F)``: means of ``num_estimates`` independent estimates.
    :param to_maximum: Newton's step from the params to the maximum of log p(x), in standard errors,
        shape ``(F,)``; its Monte Carlo standard error is ``to_maximum_mc_se``.
    :param pareto_k: k-hat of the importance weights, the largest of all data. Above 0.7 the guide
        misses part of a posterior: trust neither standard errors nor Monte Carlo errors.
    """

    covariance: np.ndarray
    covariance_sandwich: np.ndarray | None
    log_likelihood: float
    log_likelihood_mc_se: float
    free_names: tuple[str, ...]
    information: np.ndarray
    scores: np.ndarray
    to_maximum: np.ndarray
    to_maximum_mc_se: np.ndarray
    pareto_k: float = np.nan
    _source: "WaldSource" = field(repr=False)

    def of(self, function: Callable[[dict[str, Any]], Any], constraint: Any = None) -> WaldTable:
        """Estimate, standard errors and interval of a function of the parameters: delta method.

        :param function: maps the model's params, by site, to a scalar, an array or a pytree of
            them; differentiable by JAX.
        :param constraint: of its values, as in :func:`numpyro.param`: the interval is symmetric in
            unconstrained space, and so stays inside. None: symmetric around the estimate.
        """
        return self._source.of(function, constraint)

    def __str__(self) -> str:
        num_data = len(self.scores)
        data = "one joint likelihood" if num_data == 1 else f"{num_data} data"
        log_likelihood = f"{self.log_likelihood:.2f} ± {self.log_likelihood_mc_se:.2g}"
        largest = int(np.argmax(np.abs(self.to_maximum)))
        relative = 100.0 * np.max(self.mc_se / self.se)
        kind = "sandwich" if self.robust else "observed information"
        return (
            f"Maximum likelihood, {data}: log p(x) = {log_likelihood}\n\n{super().__str__()}\n\n"
            f"Intervals of {kind}. Monte Carlo error of se: up to {relative:.2g} %. Newton's step "
            f"to the maximum: up to {abs(self.to_maximum[largest]):.2g} ± "
            f"{self.to_maximum_mc_se[largest]:.1g} se."
        )


@dataclass(frozen=True, eq=False)
class WaldSource:
    """Parameters with their covariances in unconstrained space, from which tables are made.

    :param from_information: covariances of the unconstrained parameters.
    :param from_sandwich: the same; None without independent data.
    :param level: of intervals.
    :param robust: whether intervals are those of the sandwich.
    """

    params: ModelParams
    from_information: Covariances
    from_sandwich: Covariances | None
    level: float
    robust: bool

    @cached_property
    def jacobian(self) -> np.ndarray:
        """Derivatives of the constrained scalars in the unconstrained ones, ``(P, F)``."""
        jacobian = jax.jacfwd(self.params.vector)(self.params.unconstrained)
        return np.asarray(jacobian, np.float64)

    def of_params(self) -> dict[str, Any]:
        """The columns of the parameters' own table."""
        estimate, _ = ravel_pytree(self.params.values)
        return self._columns(self.params.names, estimate, self.jacobian, self.params.groups)

    def of(self, function: Callable[[dict[str, Any]], Any], constraint: Any) -> WaldTable:
        """The table of a function of the constrained parameters."""
        values = function(self.params.values)
        flat = lambda free: ravel_pytree(function(self.params.constrained(free)))[0]
        jacobian = np.asarray(jax.jacfwd(flat)(self.params.unconstrained), np.float64)
        names = names_of({"": values}) if not isinstance(values, dict) else names_of(values)
        names = [name or "value" for name in names]
        groups = [(constraint, jnp.shape(leaf)) for leaf in jax.tree.leaves(values)]
        return WaldTable(**self._columns(tuple(names), ravel_pytree(values)[0], jacobian, groups))

    def _columns(
        self, names: tuple[str, ...], estimate: Any, jacobian: np.ndarray, groups: list[Group]
    ) -> dict[str, Any]:
        estimate = np.asarray(estimate, np.float64)
        se, mc_se = self.from_information.errors(jacobian)
        se_sandwich = mc_se_sandwich = None
        if self.from_sandwich is not None:
            se_sandwich, mc_se_sandwich = self.from_sandwich.errors(jacobian)
        chosen = se_sandwich if self.robust and se_sandwich is not None else se
        lower, upper, z = _intervals(estimate, chosen, groups, self.level)
        return {
            "names": names,
            "estimate": estimate,
            "se": se,
            "mc_se": mc_se,
            "se_sandwich": se_sandwich,
            "mc_se_sandwich": mc_se_sandwich,
            "z": z,
            "lower": lower,
            "upper": upper,
            "level": self.level,
            "robust": self.robust,
        }


def _intervals(
    estimate: np.ndarray, se: np.ndarray, groups: list[Group], level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of Wald intervals and z; symmetric in the unconstrained space of each group."""
    quantile = norm.ppf(0.5 * (1.0 + level))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = estimate / se
    lower, upper = estimate - quantile * se, estimate + quantile * se
    start = 0
    for constraint, shape in groups:
        here = slice(start, start + int(np.prod(shape)))
        start = here.stop
        if constraint is None:
            continue
        transform = biject_to(constraint)
        free = transform.inv(jnp.asarray(estimate[here].reshape(shape)))
        slope = jax.jvp(transform, (free,), (jnp.ones_like(free),))[1]
        width = quantile * se[here].reshape(shape) / slope
        ends = [np.ravel(transform(free + sign * width)) for sign in (-1.0, 1.0)]
        lower[here], upper[here] = np.minimum(*ends), np.maximum(*ends)
        z[here] = np.nan
    return lower, upper, z


def _shown(value: float, is_z: bool) -> str:
    return f"{value:.2f}" if is_z else f"{value:.4g}" if abs(value) < 1e-3 else f"{value:.4f}"
