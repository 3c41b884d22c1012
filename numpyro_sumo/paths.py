"""Draws of a guide that are differentiated along their path, and not in the guide's density.

With z = z(ε, φ) reparameterised, the derivative of log q(z | φ) in φ has two parts: through z, and
in φ at fixed z. The second, the score, has mean zero and is all the noise there is once the guide
fits. Here it is left out: draws are live, and the density is taken with φ held.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import random
from jax.extend.core import Jaxpr, Literal
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro.distributions import Delta, Distribution, TransformedDistribution
from numpyro.distributions.transforms import ComposeTransform, Transform
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import compute_log_probs
from numpyro.primitives import Messenger

Params = dict[str, Any]


def is_delta(distribution: Distribution) -> bool:
    """Whether draws are a function of what came before: a Delta, under whatever shape or mask."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


class along_path(Messenger):
    """A guide that takes the random draws of a trace of it, and recomputes all else.

    Run under held parameters its log-densities depend on the traced ones through the draws alone.

    :param guide: the guide.
    :param draws: its random sites, from :func:`random_sites` of a trace under live parameters.
    """

    def __init__(self, guide: Callable, draws: dict[str, dict]):
        super().__init__(guide)
        self.draws = draws

    def process_message(self, msg):
        if msg["type"] == "sample" and msg["name"] in self.draws:
            site = self.draws[msg["name"]]
            msg["value"] = site["value"]
            if site["intermediates"]:
                msg["intermediates"] = _intermediates(msg["fn"], site)


def random_sites(guide_trace: dict) -> dict[str, dict]:
    """The latent sites of a guide's trace that are drawn, and not computed from other draws."""
    return {
        name: site
        for name, site in guide_trace.items()
        if site["type"] == "sample" and not site["is_observed"] and not is_delta(site["fn"])
    }


def check_paths(guide: Callable, params: Params, args: tuple, kwargs: dict) -> None:
    """Refuses guides some of whose sites depend on parameters otherwise than through random draws.

    A Delta at a parameter has no density whose score could be left out; nor has a factor.

    :raises ValueError: naming the site.
    """

    def draw(params):
        program = trace(substitute(seed(guide, random.key(0)), data=params))
        sites = random_sites(program.get_trace(*args, **kwargs))
        return {
            n: {"value": s["value"], "intermediates": s["intermediates"]} for n, s in sites.items()
        }

    def computed(params, draws):
        program = along_path(seed(guide, random.key(0)), draws)
        log_probs, sites = compute_log_probs(program, args, kwargs, params, sum_log_prob=False)
        return {n: (sites[n]["value"], log_probs[n]) for n in log_probs if n not in draws}

    draws = jax.eval_shape(draw, params)
    traced, shape = jax.make_jaxpr(computed, return_shape=True)(params, draws)
    num_params = len(jax.tree.leaves(params))
    dependent = _depends(traced.jaxpr, [True] * num_params)
    for name, flags in jax.tree.unflatten(jax.tree.structure(shape), dependent).items():
        if any(flags):
            raise ValueError(
                "Expected a guide that depends on its parameters through reparameterised draws "
                f"alone, for gradient='dreg'; its site '{name}', a Delta or a factor, depends on "
                "them otherwise. Pass gradient='standard'."
            )


def _depends(jaxpr: Jaxpr, leading: list[bool]) -> list[bool]:
    """Which outputs may depend on the leading inputs."""
    marked = {v for v, flag in zip(jaxpr.invars, leading) if flag}
    is_marked = lambda atom: not isinstance(atom, Literal) and atom in marked
    for equation in jaxpr.eqns:
        if any(is_marked(atom) for atom in equation.invars):
            marked.update(equation.outvars)
    return [is_marked(atom) for atom in jaxpr.outvars]


def _intermediates(distribution: Distribution, site: dict) -> list:
    """What a transformed distribution computed on the way to a draw y, as a function of y.

    The base draw x is known, and so the transform need not be inverted: to first order, which is
    all that a derivative sees, x moves by J⁻¹ dy with J the transform's Jacobian at x.
    """
    while not isinstance(distribution, TransformedDistribution):
        distribution = distribution.base_dist
    x = stop_gradient(site["intermediates"][0][0])
    y = site["value"]
    x = x + _pull_back(ComposeTransform(distribution.transforms), x, y - stop_gradient(y))
    intermediates = []
    for transform in distribution.transforms:
        y, computed = transform.call_with_intermediates(x)
        intermediates.append([x, computed])
        x = y
    return intermediates


def _pull_back(transform: Transform, x: jax.Array, dy: jax.Array) -> jax.Array:
    """J⁻¹ dy, or its least-squares solution where y has more coordinates than x."""
    batch_ndim = x.ndim - transform.domain.event_dim
    batch, event = x.shape[:batch_ndim], x.shape[batch_ndim:]
    basis = jnp.eye(math.prod(event), dtype=x.dtype).reshape(-1, *[1] * batch_ndim, *event)
    push = lambda dx: jax.jvp(transform, (x,), (jnp.broadcast_to(dx, x.shape),))[1]
    columns = stop_gradient(jax.vmap(push)(basis))
    dy = dy.reshape(*batch, -1)
    jacobian = jnp.moveaxis(columns.reshape(len(basis), *dy.shape), 0, -1)
    if jacobian.shape[-2:] == (1, 1):
        return (dy / jacobian[..., 0]).reshape(x.shape)
    q, r = jnp.linalg.qr(jacobian)
    rotated = jnp.einsum("...ij,...i->...j", q, dy)[..., None]
    dx = jax.scipy.linalg.solve_triangular(r, rotated)
    return dx.reshape(x.shape)
