"""The samplers of the posteriordb benchmark, each as it comes, without tuning."""

from collections.abc import Callable
from typing import Any, NamedTuple
import warnings

import numpy as np
import optax

import jax
from jax import lax, random

from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide

from benchmarks.common.stopwatch import Stopwatch
from benchmarks.posteriordb.pathfinder import pathfinder_draws
from benchmarks.posteriordb.regressions import Model
from numpyro_sumo import FitOptions, certify, fit
from numpyro_sumo.certificates.error_bounds import LARGEST_FINITE_VARIANCE_K

#: Chains of NUTS; independent draws are cut into as many.
NUM_CHAINS = 4


class Size(NamedTuple):
    """How much each sampler does.

    :param fit: options of fit other than its minutes.
    :param num_warmup: of each chain of NUTS, as is ``num_draws``.
    :param num_steps: of training of the automatic guides.
    :param num_samples: draws of a guide.
    :param num_paths: of Pathfinder.
    """

    fit: dict[str, Any] = {}
    num_warmup: int = 1_000
    num_draws: int = 1_000
    num_steps: int = 10_000
    num_samples: int = 10_000
    num_paths: int = 20


QUICK = Size(
    {"num_steps": 200, "num_samples": 1_000, "hidden_sizes": (8,)}, 200, 250, 500, 1_000, 4
)


class Sample(NamedTuple):
    """What a sampler returns.

    :param rows: draws by the name of the row, by site, of shape ``(chain, draw, ...)``.
    :param seconds: wall clock with compilation.
    :param figures: of each row.
    """

    rows: dict[str, dict[str, np.ndarray]]
    seconds: float
    figures: dict[str, dict[str, Any]]


def sample_fit(rng_key: jax.Array, model: Model, size: Size, minutes: float) -> Sample:
    """:func:`~numpyro_sumo.fit`: its chains, and the draws of its guide."""
    options = FitOptions(minutes=minutes, progress_bar=False, **size.fit)
    with Stopwatch() as watch:
        posterior = fit(rng_key, model, options=options)
    certificate, diagnostics = posterior.certificate, posterior.diagnostics
    of_chains = {
        "verdict": posterior.verdict.splitlines()[0],
        "problems": list(posterior.judgement.problems),
        "kernel": diagnostics.kernel,
        "acceptance": diagnostics.acceptance,
        "steps": diagnostics.steps,
        "phases": diagnostics.seconds,
    }
    rows = {"fit": posterior.draws, "fit_guide": in_chains(certificate.draws)}
    return Sample(rows, _total(watch), {"fit": of_chains, "fit_guide": _certified(certificate)})


def sample_nuts(rng_key: jax.Array, model: Model, size: Size, minutes: float) -> Sample:
    """NUTS on the model as written, with NumPyro's defaults."""
    with Stopwatch() as watch:
        mcmc = MCMC(
            NUTS(model),
            num_warmup=size.num_warmup,
            num_samples=size.num_draws,
            num_chains=NUM_CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(rng_key)
        draws = jax.tree.map(np.asarray, mcmc.get_samples(group_by_chain=True))
    divergences = int(np.sum(mcmc.get_extra_fields()["diverging"]))
    return Sample({"nuts": draws}, _total(watch), {"nuts": {"divergences": divergences}})


def _sampler_of(name: str, guide: Callable) -> Callable[..., Sample]:
    """The sampler that trains a guide by the ELBO and draws from it."""

    def sample(rng_key: jax.Array, model: Model, size: Size, minutes: float) -> Sample:
        train_key, draw_key, certify_key = random.split(rng_key, 3)
        trained = guide(model)
        with Stopwatch() as watch:
            schedule = optax.cosine_decay_schedule(1e-2, size.num_steps)
            svi = SVI(model, trained, optax.adam(schedule), Trace_ELBO(num_particles=16))
            params = svi.run(train_key, size.num_steps, progress_bar=False).params
            latents = trained.sample_posterior(draw_key, params, sample_shape=(size.num_samples,))
            draws = with_deterministic(model, latents)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of k-hats, which are reported
                found = certify(certify_key, model, trained, params, num_samples=size.num_samples)
            figures = _certified(found)
        except Exception as error:  # the draws are worth comparing without a KL
            figures = {"not_certified": f"{type(error).__name__}: {error}".splitlines()[0]}
        return Sample({name: in_chains(draws)}, _total(watch), {name: figures})

    return sample


def sample_pathfinder(rng_key: jax.Array, model: Model, size: Size, minutes: float) -> Sample:
    """Multi-path Pathfinder of BlackJAX, resampled by Pareto-smoothed weights."""
    with Stopwatch() as watch:
        latents, k_hat = pathfinder_draws(rng_key, model, size.num_paths, size.num_samples)
        draws = with_deterministic(model, latents)
    rows = {"pathfinder": in_chains(draws)}
    return Sample(rows, _total(watch), {"pathfinder": {"pareto_k": k_hat}})


#: Each maps (key, model, size, minutes of fit) to a sample.
SAMPLERS: dict[str, Callable[..., Sample]] = {
    "fit": sample_fit,
    "nuts": sample_nuts,
    "multivariate_normal": _sampler_of("multivariate_normal", autoguide.AutoMultivariateNormal),
    "bnaf": _sampler_of("bnaf", autoguide.AutoBNAFNormal),
    "pathfinder": sample_pathfinder,
}


def with_deterministic(model: Model, latents: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Draws of latent sites, with a leading axis, and of the deterministic sites they imply."""

    def complete(latents: dict[str, jax.Array]) -> dict[str, jax.Array]:
        sites = handlers.trace(handlers.substitute(model, latents)).get_trace()
        found = {n: site["value"] for n, site in sites.items() if site["type"] == "deterministic"}
        return latents | found

    return jax.jit(lambda latents: lax.map(complete, latents, batch_size=100))(latents)


def in_chains(draws: dict[str, Any]) -> dict[str, np.ndarray]:
    """Independent draws cut into chains: ``(draws, ...)`` becomes ``(chain, draw, ...)``."""
    arrays = {name: np.asarray(values) for name, values in draws.items()}
    return {n: values.reshape(NUM_CHAINS, -1, *values.shape[1:]) for n, values in arrays.items()}


def _certified(certificate: Any) -> dict[str, Any]:
    """Figures of a certificate, in nats but for k-hat; whether that vouches for log-evidence."""
    return {
        "log_evidence": certificate.log_evidence,
        "log_evidence_se": certificate.log_evidence_se,
        "is_known": bool(certificate.pareto_k <= LARGEST_FINITE_VARIANCE_K),
        "elbo": certificate.log_evidence - certificate.kl_upper,
        "pareto_k": certificate.pareto_k,
        "certificate": certificate.verdict,
    }


def _total(watch: Stopwatch) -> float:
    return watch.seconds + watch.compile_seconds
