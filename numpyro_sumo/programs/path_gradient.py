"""Draws of a guide that are differentiated along their path, and not in the guide's density.

With z = z(ε, φ) reparameterised, the derivative of log q(z | φ) in φ has two parts: through z, and
in φ at fixed z. The second, the score, has mean zero and is all the noise there is once the guide
fits. Here it is left out: draws are live, and the density is taken with φ held.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
from jax import random
from jax.extend.core import Jaxpr, Literal
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro.distributions import Distribution, TransformedDistribution
from numpyro.distributions.transforms import ComposeTransform, Transform
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import compute_log_probs
from numpyro.primitives import Messenger

from .programs import Programs
from .sites import latent_sites, random_sites


class along_path(Messenger):
    """A guide that takes the random draws of a trace of it, and recomputes all else.

    Run under held parameters its log-densities depend on the traced ones through the draws alone.

    :param guide: the guide.
    :param draws: its random sites, from :func:`random_sites` of a trace under live parameters.
    """

    def __init__(self, guide: Callable, draws: dict[str, dict]):
        super().__init__(guide)
        self.draws = draws
        self.met_control_flow = False

    def process_message(self, msg):
        self.met_control_flow |= msg["type"] == "control_flow"
        if msg["type"] == "sample" and msg["name"] in self.draws:
            site = self.draws[msg["name"]]
            msg["value"] = site["value"]
            if site["intermediates"]:
                msg["intermediates"] = intermediates_of(
                    msg["fn"], site["value"], site["intermediates"]
                )


class Dependence(NamedTuple):
    """What the value, density or support of a site of a guide depends on.

    :param on_parameters: whether on parameters otherwise than through random draws.
    :param draws: names of the random sites.
    """

    on_parameters: bool
    draws: frozenset[str]


class Dependences(NamedTuple):
    """Dependences of the sites of a guide, by their names.

    :param computed: of value and density of the sites that are not drawn: Deltas and factors.
    :param supports: of the supports of those that are.
    :param control_flow: whether there is a scan or a cond, into which this does not look.
    """

    computed: dict[str, Dependence]
    supports: dict[str, Dependence]
    control_flow: bool


def dependences(programs: Programs) -> Dependences:
    """Runs a guide abstractly, and finds what depends on what."""
    guide, (params, args, kwargs) = programs.guide, programs.inputs
    runs: list[along_path] = []

    def draw(params):
        sites = trace(substitute(seed(guide, random.key(0)), data=params)).get_trace(
            *args, **kwargs
        )
        return {
            name: {"value": site["value"], "intermediates": site["intermediates"]}
            for name, site in random_sites(sites).items()
        }

    def compute(params, draws):
        runs.append(along_path(seed(guide, random.key(0)), draws))
        log_probs, sites = compute_log_probs(runs[0], args, kwargs, params, sum_log_prob=False)
        computed = {n: (sites[n]["value"], log_probs[n]) for n in log_probs if n not in draws}
        return computed, {n: jax.tree.leaves(sites[n]["fn"].support) for n in draws}

    draws = jax.eval_shape(draw, params)
    traced, shape = jax.make_jaxpr(compute, return_shape=True)(params, draws)
    sources = (
        jax.tree.map(lambda _: frozenset([_PARAMETERS]), params),
        {
            name: jax.tree.map(lambda _, name=name: frozenset([name]), site)
            for name, site in draws.items()
        },
    )
    is_set = lambda leaf: isinstance(leaf, frozenset)
    origins = _origins(traced.jaxpr, jax.tree.leaves(sources, is_leaf=is_set))
    parts = jax.tree.unflatten(jax.tree.structure(shape), origins)

    def together(leaves):
        found = frozenset().union(*leaves)
        return Dependence(_PARAMETERS in found, found - {_PARAMETERS})

    computed, supports = ({n: together(leaves) for n, leaves in p.items()} for p in parts)
    return Dependences(computed, supports, runs[0].met_control_flow)


def why_no_dreg(programs: Programs) -> str | None:
    """What keeps a guide from being differentiated along its draws alone, in words, if anything.

    The score has mean zero, and may be left out, if parameters act through reparameterised draws
    only: a Delta at a parameter has no density, and a support that moves carries probability.
    """
    found = dependences(programs)
    for name, of_site in found.computed.items():
        if of_site.on_parameters:
            return f"site '{name}', a Delta or a factor, depends on them otherwise"
    for name, of_support in found.supports.items():
        if of_support.on_parameters:
            return f"site '{name}' has a support that depends on them"
    return "draws are made inside a scan or a cond" if found.control_flow else None


def support_dependences(program: Callable, args: tuple, kwargs: dict) -> dict[str, frozenset[str]]:
    """The latent sites that the support of each latent site depends on, by names."""

    def run(values):
        sites = trace(substitute(seed(program, random.key(0)), data=values))
        return latent_sites(sites.get_trace(*args, **kwargs))

    draws = jax.eval_shape(lambda: {name: site["value"] for name, site in run({}).items()})
    traced, shape = jax.make_jaxpr(
        lambda draws: {n: jax.tree.leaves(site["fn"].support) for n, site in run(draws).items()},
        return_shape=True,
    )(draws)
    origins = _origins(traced.jaxpr, [frozenset([name]) for name in sorted(draws)])
    by_site = jax.tree.unflatten(jax.tree.structure(shape), origins)
    return {name: frozenset().union(*of_leaves) for name, of_leaves in by_site.items()}


#: No site has this name: NumPyro's are strings.
_PARAMETERS = None


def _origins(jaxpr: Jaxpr, of_inputs: list[frozenset]) -> list[frozenset]:
    """The origins of the inputs that each output may depend on."""
    origins = dict(zip(jaxpr.invars, of_inputs))
    of = lambda atom: frozenset() if isinstance(atom, Literal) else origins.get(atom, frozenset())
    for equation in jaxpr.eqns:
        together = frozenset().union(*map(of, equation.invars))
        origins.update({variable: together for variable in equation.outvars})
    return [of(atom) for atom in jaxpr.outvars]


def intermediates_of(distribution: Distribution, y: jax.Array, drawn: list) -> list:
    """What a transformed distribution computes on the way to a draw y, as a function of y.

    The base draw x is known, and so the transform need not be inverted: to first order, which is
    all that a derivative sees, x moves by J⁻¹ dy with J the transform's Jacobian at x.

    :param distribution: with its parameters held.
    :param y: the draw, live.
    :param drawn: the intermediates it was drawn with.
    """
    while not isinstance(distribution, TransformedDistribution):
        distribution = distribution.base_dist
    x = stop_gradient(drawn[0][0])
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
    # Where a transform is flat, float32 saturated, nothing can be said: nothing is passed on.
    if jacobian.shape[-2:] == (1, 1):
        flat = jacobian[..., 0] == 0.0
        return jnp.where(flat, 0.0, dy / jnp.where(flat, 1.0, jacobian[..., 0])).reshape(x.shape)
    q, r = jnp.linalg.qr(jacobian)
    flat = jnp.any(jnp.diagonal(r, axis1=-2, axis2=-1) == 0.0, axis=-1)[..., None, None]
    rotated = jnp.einsum("...ij,...i->...j", q, dy)[..., None]
    dx = jax.scipy.linalg.solve_triangular(jnp.where(flat, jnp.eye(r.shape[-1]), r), rotated)
    return jnp.where(flat, 0.0, dx).reshape(x.shape)
