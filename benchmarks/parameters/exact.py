"""The exact maximum-likelihood estimate of a model, and its statistical standard errors."""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from benchmarks.parameters.latent_models import LatentModel


class Exact(NamedTuple):
    """The exact estimate of each reported figure.

    :param estimate: by figure.
    :param standard_error: by figure, from the observed information and the delta method.
    :param log_likelihood: the highest one, in nats.
    :param gradient: the largest absolute derivative left there, in nats by unconstrained parameter.
    """

    estimate: dict[str, float]
    standard_error: dict[str, float]
    log_likelihood: float
    gradient: float


def named(reported: dict[str, Any]) -> dict[str, Any]:
    """One entry for each figure: entries of a vector (its last axis) are numbered."""
    figures = {}
    for name, value in reported.items():
        value = np.asarray(value)
        if value.ndim == 0:
            figures[name] = value
        else:
            figures |= {f"{name} {i + 1}": value[..., i] for i in range(value.shape[-1])}
    return figures


def maximum_likelihood(problem: LatentModel, **options: Any) -> Exact:
    """Maximise the exact log-likelihood in float64.

    :param options: keyword arguments of ``problem.log_likelihood``, ``num_nodes`` for instance.
    :raises RuntimeError: where the maximum found is no strict one.
    """
    with jax.enable_x64(True):
        data = [jnp.asarray(part) for part in problem.data]
        start = {
            name: jnp.log(jnp.asarray(value, float)) if positive else jnp.asarray(value, float)
            for name, (value, positive) in problem.parameters.items()
        }
        flat, unravel = ravel_pytree(start)

        def constrained(vector):
            return {
                name: jnp.exp(value) if problem.parameters[name].positive else value
                for name, value in unravel(vector).items()
            }

        def objective(vector):
            return -problem.log_likelihood(constrained(vector), *data, **options)

        def figures(vector):
            leaves = problem.reported(constrained(vector)).values()
            return jnp.concatenate([jnp.atleast_1d(leaf) for leaf in leaves])

        gradient, hessian = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))
        found = minimize(
            jax.jit(objective),
            np.asarray(flat),
            jac=gradient,
            hess=hessian,
            method="trust-exact",
            options={"gtol": 1e-9, "maxiter": 500},
        )
        information = np.asarray(hessian(found.x))
        if np.linalg.eigvalsh(information).min() <= 0.0:
            raise RuntimeError(
                f"Expected a strict maximum of the likelihood of '{problem.title}'; its "
                "information is singular. Change the data."
            )
        jacobian = np.asarray(jax.jacobian(figures)(found.x))
        covariance = jacobian @ np.linalg.solve(information, jacobian.T)
        names = list(named(problem.reported(constrained(found.x))))
        return Exact(
            dict(zip(names, np.asarray(figures(found.x)).tolist())),
            dict(zip(names, np.sqrt(np.diag(covariance)).tolist())),
            -float(found.fun),
            float(np.abs(gradient(found.x)).max()),
        )
