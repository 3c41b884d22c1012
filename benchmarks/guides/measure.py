"""What ``certify`` says of a guide over many seeds, and what is true of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
import time
from typing import Any
import warnings

import numpy as np

import jax
from jax import random
from jax.experimental.compilation_cache import compilation_cache

# NumPyro's own fit of the tail, on log-weights; psis_diagnostic draws its own.
from numpyro.infer.importance import _psis_khat

from benchmarks.guides.guides import Fit
from benchmarks.guides.problems import Problem, in_columns
from numpyro_sumo import certify
from numpyro_sumo.certificates import Certificate

#: A true error is beyond its bound if it is so many of its Monte Carlo standard errors beyond.
_ERRORS = 4.0

#: Rounding of log-evidence in single precision, as a share of it: no standard error shows it.
_ROUNDING = 1e-6


@contextmanager
def compiled_once() -> Iterator[None]:
    """Keep compiled programs on disk during the block: each ``certify`` compiles its own again."""
    names = {
        "jax_compilation_cache_dir": None,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    with TemporaryDirectory() as folder:
        compilation_cache.reset_cache()
        for name, value in (names | {"jax_compilation_cache_dir": folder}).items():
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def measure(
    problem: Problem, fit: Fit, rng_key: jax.Array, seeds: int, num_samples: int
) -> dict[str, Any]:
    """Certify a guide with several keys, and compare with the exact posterior.

    :return: lists over the keys, and errors of the guide pooled over them; or the message of the
        error by which ``certify`` refuses the guide.
    """
    rows, moments = [], []
    for key in random.split(rng_key, seeds):
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of weights, which are reported
                certificate = certify(
                    key, problem.model, fit.guide, fit.params, num_samples=num_samples
                )
                seconds = time.perf_counter() - started
                rows.append(_row(problem, certificate) | {"seconds": seconds})
        except Exception as error:  # a crash is a result, not the end of the benchmark
            is_clear = isinstance(error, ValueError)
            return {"refused": str(error) if is_clear else f"{type(error).__name__}: {error}"}
        moments.append(_moments(certificate))
    bounds = [row.pop("bounds") for row in rows]
    cell = {name: [row[name] for row in rows] for name in rows[0]}
    exact = problem.exact.log_evidence
    rounding = _ROUNDING * max(1.0, abs(exact))
    errors = np.hypot(cell["log_evidence_se"], rounding)
    cell["z"] = ((np.array(cell["log_evidence"]) - exact) / errors).tolist()
    names = list(certificate.latents)
    return cell | _truth(problem, names, moments, bounds) | {"num_samples": num_samples}


def _row(problem: Problem, certificate: Certificate) -> dict[str, Any]:
    """The figures of one certificate; ``corrected_off`` is the largest error under the weights."""
    mean, sd = problem.moments(list(certificate.latents))
    marginals = certificate.marginals
    bounds = marginals.bounds
    corrected_off = np.abs(
        [(marginals.corrected_mean - mean) / sd, marginals.corrected_sd / sd - 1]
    )
    return {
        "log_evidence": certificate.log_evidence,
        "log_evidence_se": certificate.log_evidence_se,
        "pareto_k": certificate.pareto_k,
        "pareto_k_numpyro": float(_psis_khat(certificate.log_weights)),
        "kl": certificate.kl_upper,
        "ess": certificate.ess,
        "verdict": certificate.verdict,
        "problems": certificate.problems[:1],
        "corrected_off": float(corrected_off.max()),
        "vacuous": float(bounds.vacuous.mean()),
        "bounds": (bounds.mean, bounds.sd),
    }


def _moments(certificate: Certificate) -> dict[str, np.ndarray]:
    """Means, variances, their squared standard errors, and correlations of the guide's draws."""
    values = in_columns(certificate.latents).astype(np.float64)
    mean, variance, count = values.mean(axis=0), values.var(axis=0), len(values)
    return {
        "mean": mean,
        "variance": variance,
        "mean_error": variance / count,
        "variance_error": ((values - mean) ** 2).var(axis=0) / count,
        "correlations": np.atleast_2d(np.corrcoef(values.T)),
    }


def _truth(
    problem: Problem, names: list[str], moments: list[dict], bounds: list[tuple]
) -> dict[str, Any]:
    """True errors of the guide, and how often the bounds on them hold.

    :param names: the latent sites in the order of the numbers.
    :param moments: of the draws for each key, from :func:`_moments`.
    :param bounds: on the errors of means and sds for each key.
    """
    pooled = {name: np.mean([each[name] for each in moments], axis=0) for name in moments[0]}
    exact_mean, exact_sd = problem.moments(names)
    sd = np.sqrt(pooled["variance"])
    off_mean, off_sd = pooled["mean"] - exact_mean, sd - exact_sd
    mean_error = np.sqrt(pooled["mean_error"] / len(moments))
    sd_error = np.sqrt(pooled["variance_error"] / len(moments)) / (2.0 * sd)
    on_mean, on_sd = (np.array(each) for each in zip(*bounds))
    held = [
        np.abs(off) <= bound + _ERRORS * error
        for off, bound, error in ((off_mean, on_mean, mean_error), (off_sd, on_sd, sd_error))
    ]
    exact = np.corrcoef(in_columns({name: problem.draws[name] for name in names}).T)
    return {
        "mean_off": float(np.max(np.abs(off_mean) / exact_sd)),
        "mean_off_error": float(np.max(mean_error / exact_sd)),
        "sd_off": float(np.max(np.abs(off_sd) / exact_sd)),
        "sd_off_error": float(np.max(sd_error / exact_sd)),
        "correlation_off": float(np.max(np.abs(pooled["correlations"] - exact))),
        "bounds_held": float(np.mean(held)),
    }
