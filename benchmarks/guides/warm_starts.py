"""Seconds of NUTS from a warm start, training of the guide included, and of plain NUTS."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
import warnings

import jax
from jax import random
from jax.experimental.compilation_cache import compilation_cache

from numpyro.infer import MCMC

from benchmarks.common.stopwatch import Stopwatch
from benchmarks.guides.studies import NUM_CHAINS, Study, convergence, key_of, start_studies
from numpyro_sumo import certify, warm_start

#: The variant without a guide; the others are named after their kinds of guides.
PLAIN = "NUTS"

#: Stages of a variant in their order. Only the last one yields draws.
STAGES = ("train", "certify", "warm start", "warm-up", "draws")


class Size(NamedTuple):
    """How many draws are taken.

    :param num_warmup: of each chain of plain NUTS.
    :param num_short_warmup: of each chain after a warm start.
    :param num_draws: of each chain, after warm-up.
    :param num_samples: draws of the certificate that the start is made from.
    :param share: of the guides' training steps.
    """

    num_warmup: int = 1_000
    num_short_warmup: int = 100
    num_draws: int = 1_000
    num_samples: int = 1_000
    share: float = 1.0


QUICK = Size(200, 50, 200, 500, 0.2)


def start_jobs(quick: bool) -> list[tuple[str, str, str]]:
    """The cells of this part: part, model and repeat."""
    if quick:
        return [("warm_start", "schools", "repeat 1")]
    models = ("logistic", "volatility")
    return [("warm_start", name, f"repeat {i}") for i in (1, 2, 3) for name in models]


def time_starts(model: str, repeat: str, seed: int, size: Size) -> dict[str, Any]:
    """Time plain NUTS and NUTS from the start of each guide, one after the other.

    Each variant compiles all of its programs anew. Which one is first changes with the repeat.

    :param repeat: "repeat 1" and so on.
    :return: figures by variant.
    """
    study = start_studies()[model]
    variants = [PLAIN, *study.guides]
    first = int(repeat.split()[-1]) % len(variants)
    found = {}
    for variant in variants[first:] + variants[:first]:
        key = key_of(seed, "warm_start", model, repeat, variant)
        with compiled_anew():
            found[variant] = _time(study, variant, key, size)
    return {"variants": {name: found[name] for name in variants}, "size": size._asdict()}


@contextmanager
def compiled_anew() -> Iterator[None]:
    """Compile each program in the block as if it had never been compiled before."""
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.clear_caches()
    compilation_cache.reset_cache()
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()


def _time(study: Study, variant: str, rng_key: jax.Array, size: Size) -> dict[str, Any]:
    """Seconds of each stage without and with compilation, and how well the chains mix."""
    start_key, chains_key = random.split(rng_key)
    watches: dict[str, Stopwatch] = {}
    figures: dict[str, Any] = {}
    if variant == PLAIN:
        mcmc, init_params = study.chains(size.num_warmup, size.num_draws), None
    else:
        start, figures = _start(study, variant, start_key, size, watches)
        mcmc = study.chains(size.num_short_warmup, size.num_draws, **start.kernel)
        init_params = start.init_params
    _draw(study, mcmc, chains_key, init_params, watches)
    r_hat, ess = convergence(mcmc)
    fields = mcmc.get_extra_fields()
    compiled = {name: watch.compile_seconds for name, watch in watches.items()}
    # One call of MCMC.run compiles one program for warm-up and draws; here it is compiled twice.
    compiled["draws"] = 0.0
    return figures | {
        "seconds": {name: watch.seconds for name, watch in watches.items()},
        "compile_seconds": compiled,
        "r_hat": r_hat,
        "ess": ess,
        "divergences": int(fields["diverging"].sum()),
        "steps_of_a_draw": float(fields["num_steps"].mean()),
    }


def _start(
    study: Study, kind: str, rng_key: jax.Array, size: Size, watches: dict[str, Stopwatch]
) -> tuple[Any, dict[str, Any]]:
    """A warm start and the figures of its certificate; adds a watch for each stage."""
    train_key, certify_key, start_key = random.split(rng_key, 3)
    with Stopwatch() as watches["train"]:
        fit = study.train(train_key, kind, size.share)
    with Stopwatch() as watches["certify"], warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of k-hat, which is reported
        arguments = study.model, fit.guide, fit.params, *study.args
        certificate = certify(certify_key, *arguments, num_samples=size.num_samples)
    with Stopwatch() as watches["warm start"]:
        start = warm_start(start_key, certificate, NUM_CHAINS)
        jax.block_until_ready(start.init_params)
    return start, {"pareto_k": certificate.pareto_k, "kl": certificate.kl_upper}


def _draw(
    study: Study, mcmc: MCMC, rng_key: jax.Array, init_params: Any, watches: dict[str, Stopwatch]
) -> None:
    """Warm up and draw; adds a watch for each of both stages."""
    fields = {"extra_fields": ("num_steps",)}
    with Stopwatch() as watches["warm-up"]:
        mcmc.warmup(rng_key, *study.args, init_params=init_params, **fields)
        jax.block_until_ready(mcmc.last_state)
    with Stopwatch() as watches["draws"]:
        mcmc.run(mcmc.post_warmup_state.rng_key, *study.args, **fields)
        jax.block_until_ready(mcmc.last_state)
