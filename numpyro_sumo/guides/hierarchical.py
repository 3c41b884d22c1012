"""A sampler with auxiliary sites together with the reverse model that integrates them out."""

from functools import partial
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro.handlers import block, condition, seed, substitute, trace

from numpyro_sumo.programs.log_weights import GuideDraw
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import (
    JOINT,
    Program,
    Trace,
    is_auxiliary,
    latent_sites,
    values_of_type,
)
from numpyro_sumo.programs.traced_guide import propose
from numpyro_sumo.programs.traced_model import log_weight
from numpyro_sumo.programs.validation import Inspection, check_programs, refuse_scales

Sites = dict[str, jax.Array]


class HierarchicalGuide:
    r"""The guide :math:`q(x) = \int q(x \mid u)\, q(u)\, du` with a proposal r(u | x) for u.

    Called as a NumPyro program it runs the sampler, and then the reverse model with its sample
    sites hidden, so that SVI finds the param sites of both. Use it as any guide: in
    :class:`~numpyro.infer.SVI` with :class:`~numpyro_sumo.ReverseKL`, or in
    :class:`~numpyro.infer.Predictive`.

    :param sampler: ``sampler(*args, **kwargs)``, a NumPyro program with the target's latent sites x
        and with auxiliary sites u, marked ``infer={"is_auxiliary": True}``.
    :param reverse: ``reverse(latents, *args, **kwargs)``, a NumPyro program that samples each
        auxiliary site by its name; ``latents`` has the values of the other sites by name.
    :raises ValueError: when called, if the sampler has no auxiliary site, or if the sample sites
        of the reverse model are not the auxiliary sites.

    **Reference:** Ranganath et al. 2016, *Hierarchical variational models*, eq. (4).

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import HierarchicalGuide
    >>> def sampler():
    ...     u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    ...     numpyro.sample("x", dist.Normal(u, numpyro.param("scale", 1.0)))
    >>> def reverse(latents):
    ...     numpyro.sample("u", dist.Normal(0.5 * latents["x"], numpyro.param("width", 0.7)))
    >>> guide = HierarchicalGuide(sampler, reverse)
    >>> sorted(numpyro.handlers.trace(numpyro.handlers.seed(guide, 0)).get_trace())
    ['scale', 'u', 'width', 'x']
    """

    def __init__(self, sampler: Program, reverse: Program):
        for name, program in {"sampler": sampler, "reverse": reverse}.items():
            if not callable(program):
                raise ValueError(
                    f"Expected {name} to be a NumPyro program; got {program!r}. Pass a callable."
                )
        self.sampler = sampler
        self.reverse = reverse

    def __call__(self, *args: Any, **kwargs: Any) -> Sites:
        with trace() as sampler_trace:
            self.sampler(*args, **kwargs)
        latents, auxiliary = _split_sites(sampler_trace)
        # A param site of both programs is initialised once.
        values = auxiliary | values_of_type(sampler_trace, "param")
        reverse = substitute(seed(self.reverse, numpyro.prng_key()), data=values)
        with block(hide_fn=lambda site: site["type"] == "sample"), trace() as reverse_trace:
            reverse(latents, *args, **kwargs)
        if not auxiliary:
            raise ValueError(
                "Expected the sampler to have at least one auxiliary site; it has none. "
                "Mark the sites to be integrated out with infer={'is_auxiliary': True}."
            )
        if auxiliary.keys() != (drawn := latent_sites(reverse_trace)).keys():
            raise ValueError(
                f"Expected the reverse model to sample the auxiliary sites, {sorted(auxiliary)}; "
                f"it samples {sorted(drawn)}. Give both the same sites."
            )
        return latents

    def draw(self, rng_key: jax.Array, programs: Programs) -> tuple[Sites, Sites]:
        """A reparameterised draw (x, u) of the sampler: target sites, and auxiliary sites."""
        sampler = substitute(seed(self.sampler, rng_key), data=programs.params)
        return _split_sites(trace(sampler).get_trace(*programs.args, **programs.kwargs))

    def propose(
        self,
        rng_key: jax.Array,
        programs: Programs,
        latents: Sites,
        auxiliary: Sites | None = None,
        score_free: bool = False,
    ) -> GuideDraw:
        """A draw of u from the reverse model at x, with log r(u | x) in nats.

        :param auxiliary: values of u to use in place of a draw.
        :param score_free: whether log r is differentiated through u alone.
        """
        # Substituted inside ``seed``: other random sites get the same keys with and without u.
        values = {**programs.params, **(auxiliary or {})}
        marginal = self.marginal_programs(programs, latents).replace(params=values)
        return propose(rng_key, marginal, JOINT, score_free)

    def log_weight(
        self,
        rng_key: jax.Array,
        programs: Programs,
        latents: Sites,
        proposal: GuideDraw,
    ) -> jax.Array:
        """log q(x, u) − log r(u | x), in nats: one particle of an estimate of log q(x).

        The sampler conditioned on x is a model of u whose evidence is q(x), and the reverse model
        at x is its guide.
        """
        return log_weight(rng_key, self.marginal_programs(programs, latents), proposal)

    def marginal_programs(self, programs: Programs, latents: Sites) -> Programs:
        """The model (sampler with x observed) and the guide (reverse model at x) of u."""
        model = condition(self.sampler, data=latents)
        return programs.replace(model=model, guide=partial(self.reverse, latents))


def hierarchical(guide: object) -> HierarchicalGuide:
    """The guide itself; refuses one that is not hierarchical."""
    if not isinstance(guide, HierarchicalGuide):
        raise ValueError(
            f"Expected the guide to be a HierarchicalGuide; got {guide!r}. "
            "Write HierarchicalGuide(sampler, reverse)."
        )
    return guide


def check_hierarchical(programs: Programs, reparameterised: bool = True) -> Inspection:
    """Refuses a guide that is not hierarchical, or whose sites do not match the model's.

    :param reparameterised: as in :func:`~.programs.validation.check_programs`.
    """
    hierarchical(programs.guide)
    found = check_programs(
        lambda datum, split: programs, reparameterised=reparameterised, sums_out_discrete=True
    )
    check_reverse(programs, reparameterised)
    return found


def check_reverse(programs: Programs, reparameterised: bool = True) -> Sites:
    """Refuses a sampler and a reverse model whose sites do not match or have no density.

    :return: shapes and dtypes of the sampler's draw of x, by site.
    """
    guide = hierarchical(programs.guide)

    def check() -> Sites:
        latents, auxiliary = guide.draw(random.key(0), programs)
        for name, u in guide.propose(random.key(0), programs, latents).values.items():
            if jnp.shape(u) != (expected := jnp.shape(auxiliary[name])):
                raise ValueError(
                    f"Expected the reverse model to draw '{name}' in the sampler's shape, "
                    f"{expected}; it draws {jnp.shape(u)}. Expand its distribution, or put it into "
                    "the sampler's plates."
                )
        marginal = guide.marginal_programs(programs, latents)
        found = check_programs(lambda datum, split: marginal, reparameterised=reparameterised)
        refuse_scales(*found.traces.values())
        for (_, name), site in found.sample_sites.items():
            if site["is_observed"] and name not in latents:
                raise ValueError(
                    "Expected no observed sites or factors in sampler and reverse model, whose "
                    f"densities are those of draws; '{name}' is one. Move it to the target."
                )
        return latents

    return jax.eval_shape(check)


def _split_sites(sampler_trace: Trace) -> tuple[Sites, Sites]:
    """Values of the sampler's latent sites: of the target sites, and of the auxiliary sites."""
    sites = latent_sites(sampler_trace)
    auxiliary = {name: site["value"] for name, site in sites.items() if is_auxiliary(site)}
    latents = {name: site["value"] for name, site in sites.items() if name not in auxiliary}
    return latents, auxiliary
