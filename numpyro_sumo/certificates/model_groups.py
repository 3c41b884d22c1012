"""What a model says of posterior draws: likelihoods, predictions, data, and names of axes."""

from dataclasses import dataclass
from functools import cached_property
import inspect
from typing import Any

import numpy as np

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.distributions import Unit, biject_to
from numpyro.handlers import seed, uncondition

from numpyro_sumo._compat import jit_once
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Trace, is_enumerated, latent_sites, masks_of

_BATCH = 100


@dataclass(frozen=True)
class ModelGroups:
    """Groups of ArviZ that are computed by running the model, and the dims of its sites.

    :param programs: the model with its params and arguments.
    :param example: one draw of the latent sites.
    """

    programs: Programs
    example: Params

    @cached_property
    def sites(self) -> Trace:
        """The model's sites at the example."""
        return self._trace(self.programs.model, random.key(0), self.example)

    @cached_property
    def observed(self) -> Trace:
        """The observed sample sites, without factors."""
        return {
            name: site
            for name, site in self.sites.items()
            if site["type"] == "sample" and site["is_observed"] and not isinstance(site["fn"], Unit)
        }

    @property
    def sums_out_sites(self) -> bool:
        """Whether discrete sites are summed out: their values, and what needs them, are unknown."""
        return any(map(is_enumerated, latent_sites(self.sites).values()))

    @property
    def observed_data(self) -> dict[str, np.ndarray]:
        """Values of the observed sites."""
        return {name: np.asarray(site["value"]) for name, site in self.observed.items()}

    @property
    def constant_data(self) -> dict[str, np.ndarray]:
        """Arrays among the model's arguments, by parameter name, that are not observed values."""
        bound = inspect.signature(self.programs.model).bind(
            *self.programs.args, **self.programs.kwargs
        )
        found = {}
        for name, value in bound.arguments.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for key, part in parts:
                label = f"{name}_{key}" if key else name
                if isinstance(part, np.ndarray | jax.Array) and label not in self.observed:
                    found[label] = np.asarray(part)
        return found

    def log_likelihood(self, draws: dict[str, Any]) -> dict[str, jax.Array]:
        """log p of each observed value given each draw, in nats, with a leading axis of draws.

        Without scales of plates and handlers; zero where an observation is masked.
        """
        run = jit_once(lambda draws: lax.map(self._log_probs, draws, batch_size=_BATCH))
        found: dict[str, jax.Array] = run(draws)
        return found

    def log_likelihood_of(self, draws: dict[str, Any], data: np.ndarray) -> np.ndarray:
        """The same of some of all observed values in a row, shape ``(draws, data)``."""

        def of_draw(latents: Params) -> jax.Array:
            found = [jnp.ravel(values) for values in self._log_probs(latents).values()]
            return jnp.concatenate(found)[data]

        run = jit_once(lambda draws: lax.map(of_draw, draws, batch_size=_BATCH))
        return np.asarray(run(draws), np.float64)

    @property
    def unmasked(self) -> np.ndarray:
        """Places of observed values that are not masked, among all in a row."""
        kept = []
        for site in self.observed.values():
            values = np.shape(site["value"])
            batch = values[: len(values) - site["fn"].event_dim]
            whole = np.ones(np.broadcast_shapes(batch, site["fn"].batch_shape), bool)
            for mask, event_dim in masks_of(site["fn"]):
                inner = tuple(range(-(site["fn"].event_dim - event_dim), 0))
                # A vector is masked if all of its parts are.
                whole = whole & (np.any(mask, axis=inner) if np.ndim(mask) else np.asarray(mask))
            kept.append(whole.ravel())
        return np.flatnonzero(np.concatenate(kept))

    def unconstrained(self, draws: dict[str, Any]) -> dict[str, jax.Array]:
        """Draws of the latent sites in unconstrained space, with a leading axis of draws."""

        def of_draw(latents: Params) -> Params:
            sites = self._trace(self.programs.model, random.key(0), latents)
            supports = {name: sites[name]["fn"].support for name in latents}
            return {name: biject_to(s).inv(latents[name]) for name, s in supports.items()}

        found: dict[str, jax.Array] = jit_once(jax.vmap(of_draw))(draws)
        return found

    def posterior_predictive(self, rng_key: jax.Array, draws: Params) -> dict[str, jax.Array]:
        """New values of the observed sites given each draw, with a leading axis of draws."""

        def of_draw(key_and_latents: tuple[jax.Array, Params]) -> dict[str, jax.Array]:
            sites = self._trace(uncondition(self.programs.model), *key_and_latents)
            return {name: sites[name]["value"] for name in observed}

        observed = list(self.observed)
        keys = random.split(rng_key, len(next(iter(draws.values()))))
        run = jit_once(lambda keys, draws: lax.map(of_draw, (keys, draws), batch_size=_BATCH))
        found: dict[str, jax.Array] = run(keys, draws)
        return found

    def dims(self) -> dict[str, list[str]]:
        """Names of the axes of each site: those of the plates around it, else ArviZ's own."""
        kinds = "sample", "deterministic"
        return {
            name: _dims_of(name, site) for name, site in self.sites.items() if site["type"] in kinds
        }

    def coords(self) -> dict[str, np.ndarray]:
        """The elements of each plate, by its name."""
        plates = {n: site["value"] for n, site in self.sites.items() if site["type"] == "plate"}
        return {f"{name}_dim": np.asarray(indices) for name, indices in plates.items()}

    def _log_probs(self, latents: Params) -> dict[str, jax.Array]:
        sites = self._trace(self.programs.model, random.key(0), latents)
        return {name: sites[name]["fn"].log_prob(sites[name]["value"]) for name in self.observed}

    def _trace(self, model: Any, rng_key: jax.Array, latents: Params) -> Trace:
        return self.programs.trace_at(seed(model, rng_key), {**self.programs.params, **latents})


def _dims_of(name: str, site: dict[str, Any]) -> list[str]:
    ndim = np.ndim(site["value"])
    event_dim = site["fn"].event_dim if site["type"] == "sample" else 0
    dims = [f"{name}_dim_{axis}" for axis in range(ndim)]
    for frame in site.get("cond_indep_stack", ()):
        axis = ndim - event_dim + frame.dim
        if 0 <= axis < ndim and np.shape(site["value"])[axis] == frame.size:
            dims[axis] = f"{frame.name}_dim"
    return dims
