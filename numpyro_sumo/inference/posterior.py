"""What :func:`~numpyro_sumo.fit` returns: draws, a certificate, log-evidence, a verdict."""

from dataclasses import dataclass
from functools import cached_property
import os
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from numpyro.infer import Predictive

from numpyro_sumo.certificates.to_arviz import arviz_of
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Program

from .judgement import Verdict, judge_posterior
from .plot import plot_posterior
from .posterior_draws import PosteriorDraws
from .saving import read_posterior, write_posterior


@dataclass(frozen=True, eq=False, repr=False)
class Posterior(PosteriorDraws):
    """Draws of a posterior with what is known of them, and a verdict.

    ``print(posterior)`` shows it, and :meth:`plot` draws it. The fields are those of
    :class:`~numpyro_sumo.inference.posterior_draws.PosteriorDraws`: ``draws``, ``certificate``,
    ``placement``, ``diagnostics`` and ``options``.
    """

    @cached_property
    def judgement(self) -> Verdict:
        """The verdict as problems and remarks."""
        return judge_posterior(self)

    @property
    def verdict(self) -> str:
        """ "good", or "bad:" with a line for each problem and what to do; then remarks."""
        return self.judgement.text

    def __str__(self) -> str:
        diagnostics = self.diagnostics
        where_r_hat, r_hat, where_ess, ess = diagnostics.summary.worst
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return "\n".join(
            [
                f"Posterior of {self.placement.dim} latent numbers, {chains} chains of {draws:,}",
                f"made by        {diagnostics.kernel}",
                f"log-evidence   {self.log_evidence:.3f} ± {self.log_evidence_se:.3f} nats",
                f"largest R-hat  {r_hat:.3f} ({where_r_hat})",
                f"smallest ESS   {ess:,.0f} ({where_ess})",
                f"took           {sum(diagnostics.seconds.values()):.0f} s",
                f"Verdict: {self.verdict}",
            ]
        )

    __repr__ = __str__

    def predict(
        self, rng_key: jax.Array, *args: Any, num_draws: int = 1_000, **kwargs: Any
    ) -> dict[str, jax.Array]:
        """Draws of the model's other sites at new arguments, for draws of its latent sites.

        :param args: of the model, as are ``kwargs``; with None for data to be predicted.
        :return: values by site, shape ``(num_draws, ...)``.
        """
        pick_key, predict_key = random.split(rng_key)
        latents = self.certificate.latents
        draws = self.sample(pick_key, num_draws)
        known = {name: jnp.asarray(draws[name]) for name in latents}
        return Predictive(self.certificate.programs.model, known)(predict_key, *args, **kwargs)

    def to_arviz(self, *, rng_key: jax.Array | None = None) -> Any:
        """The chains as ArviZ data, with predictions; see :func:`~numpyro_sumo.to_arviz`.

        :param rng_key: for predictions; by default a fixed key.
        :return: ``InferenceData`` under ArviZ 0.23, ``DataTree`` under 1.x.
        """
        certificate = self.certificate
        latents = {name: self.draws[name] for name in certificate.latents}
        return arviz_of(certificate.programs, self.draws, latents, {}, rng_key)

    def plot(self) -> Any:
        """Draws marginals of each chain, beside those of the guide's own draws.

        The latent numbers are those with the largest R-hat, at most 12.

        :return: a matplotlib figure.
        :raises ValueError: without matplotlib.
        """
        return plot_posterior(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the posterior with its guide to one file of arrays (safetensors) and JSON.

        :param path: of the file; an existing one is replaced when the new one is complete.
        :raises ValueError: if its folder does not exist.
        """
        write_posterior(path, self)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: Program, *args: Any, **kwargs: Any
    ) -> "Posterior":
        """Reads what :meth:`save` has written.

        :param model: the model that was fitted, and its arguments, as are ``kwargs``.
        :raises ValueError: for a file that does not exist, is incomplete or of another format, and
            for another model or data.
        """
        return cls(**read_posterior(path, Programs(model, model, {}, args, kwargs)))
