"""From a model to draws of its posterior: place, look, learn, certify, correct, judge."""

from typing import Any
import warnings

import numpy as np

import jax
from jax import random

from numpyro.handlers import block, trace
from numpyro.infer.initialization import init_to_uniform

from numpyro_sumo.guides.placement import begin_placement
from numpyro_sumo.programs.check_latents import check_continuous_latents
from numpyro_sumo.programs.programs import Programs, with_initial_latents
from numpyro_sumo.programs.sites import Program, is_masked, values_of_type
from numpyro_sumo.programs.validation import refuse_subsamples

from .clock import Clock
from .correcting import correct
from .learning import learn
from .options import FitOptions
from .posterior import Posterior
from .posterior_draws import Diagnostics
from .work import Work

#: Draws of each chain of NUTS that are made before training.
_LOOK = 500


def fit(
    rng_key: jax.Array,
    model: Program,
    *args: Any,
    options: FitOptions | None = None,
    resume: Posterior | None = None,
    **kwargs: Any,
) -> Posterior:
    """Draws from the posterior of a model, and says whether they can be trusted.

    1. *Place*: modes are sought from several starts (:func:`~numpyro_sumo.place`), and coordinates
       chosen in which the posterior is about a standard Normal.
    2. *Look*: short chains of NUTS in these coordinates, one from each mode that may matter.
    3. *Learn*: :class:`~numpyro_sumo.AutoHierarchicalNormal` is trained by reverse KL, in rounds
       whose learning rate falls to zero. Training ends when the KL is small, when a round has
       gained nothing, by the same random numbers, or when the time is over.
    4. *Certify*: :func:`~numpyro_sumo.certify`, with log-evidence and k-hat.
    5. *Correct*: the draws are those of an exact chain that proposes from the guide; where k-hat is
       above 0.5, or few proposals are accepted, those of NUTS, until R-hat and ESS are as asked.
    6. *Judge*: convergence, modes that were found and have no draws, and whether chains of NUTS
       and of the guide agree.

    Ctrl-C ends the phase at hand; the rest is done with what there is.

    :param model: a NumPyro model with continuous latent sites and without param sites; ``args`` and
        ``kwargs`` are its arguments.
    :param options: time, and how good the draws must be; by default three minutes.
    :param resume: an earlier result of the same model and data, to go on with: training and chains
        continue.
    :return: draws with a certificate, diagnostics and a verdict.
    :raises ValueError: for a model that :class:`~numpyro_sumo.AutoHierarchicalNormal` refuses, for
        one with param sites or subsampled plates, for NaN in observed data, and if the log-density
        is finite nowhere near the starts.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import FitOptions, fit
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Poisson(rate).expand([3]).to_event(1), obs=y)
    >>> options = FitOptions(num_steps=1_000, progress_bar=False)
    >>> posterior = fit(jax.random.key(0), model, jax.numpy.array([2, 0, 3]), options=options)
    >>> posterior.verdict.splitlines()[0]
    'good'
    >>> round(float(posterior.draws["rate"].mean()), 1)
    1.6
    """
    options = FitOptions() if options is None else options
    _check_options(options, resume, kwargs)
    place_key, work_key, learn_key, certify_key, chain_key = random.split(rng_key, 5)
    clock = Clock(60.0 * options.minutes, options.progress_bar)
    if resume is None:
        _check_model(model, args, kwargs)
        with clock.phase("placement", whole=True):
            choice: dict[str, Any] = {
                "num_starts": options.num_starts,
                "full_covariance": options.full_covariance,
                "init_loc_fn": init_to_uniform,
            }
            programs = Programs(model, model, {}, args, kwargs)
            placing = begin_placement(place_key, programs, **choice)
            # In the time that the compiler takes.
            work = Work(work_key, programs, options)
            work.place(placing())
        with clock.phase("compilation of NUTS", whole=True):
            nuts = work.nuts
        nuts.run(_LOOK, clock, "NUTS", deadline=clock.budget / 2)
    else:
        work = _work_of(resume, model, args, kwargs)
        work.options = options
    weighed = learn(work, learn_key, clock)
    with clock.phase("certificate", whole=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the verdict speaks of k-hat
        certificate = work.certificate(certify_key, weighed)
    chains = correct(work, weighed, certificate, chain_key, clock)
    diagnostics = Diagnostics(
        kernel=chains.kernel,
        acceptance=chains.acceptance,
        summary=chains.summary,
        nuts=chains.nuts,
        spread=chains.spread,
        steps=work.steps,
        retreats=work.retreats,
        seconds=clock.seconds,
        interrupted=tuple(clock.interrupted),
    )
    return Posterior(chains.draws, certificate, work.placement, diagnostics, options, work)


def _check_options(options: object, resume: object, kwargs: dict[str, Any]) -> None:
    """Refuses options of the wrong kind, and those that were meant for FitOptions."""
    if not isinstance(options, FitOptions):
        raise ValueError(
            f"Expected options to be FitOptions; got {options!r}. Pass FitOptions(minutes=3)."
        )
    if resume is not None and not isinstance(resume, Posterior):
        raise ValueError(
            f"Expected resume to be what fit has returned; got {resume!r}. Leave it out."
        )


def _check_model(model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses models that cannot be fitted, before long work."""
    check_continuous_latents(model, args, kwargs)
    with block():
        sites = trace(with_initial_latents(random.key(0), model)).get_trace(*args, **kwargs)
    if params := sorted(values_of_type(sites, "param")):
        raise ValueError(
            f"Expected a model without param sites, since a posterior is sought; it has {params}. "
            "Fix them by numpyro.handlers.substitute, or give them priors."
        )
    refuse_subsamples(sites)
    for name, site in sites.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        value = np.asarray(site["value"])
        count = int(np.isnan(value).sum()) if np.issubdtype(value.dtype, np.floating) else 0
        if count and not is_masked(site):
            raise ValueError(
                f"Expected observed values without NaN; {count} of '{name}' are NaN. Drop them, or "
                "mask them by numpyro.handlers.mask."
            )


def _work_of(
    resume: Posterior, model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Work:
    """What an earlier fit has found."""
    work = resume.state
    if not isinstance(work, Work):
        raise ValueError(
            "Expected a posterior of this process, whose compiled functions can be used again; got "
            "one that was read from a file. Fit again."
        )
    known = work.programs
    leaves = lambda *inputs: jax.tree.leaves(inputs)
    old, new = leaves(known.args, known.kwargs), leaves(args, kwargs)
    same_data = len(old) == len(new) and all(np.array_equal(*pair) for pair in zip(old, new))
    if known.model is not model or not same_data:
        raise ValueError(
            "Expected the model and data of the posterior to resume; got others. Leave resume out."
        )
    return work
