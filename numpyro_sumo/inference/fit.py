"""From a model to draws of its posterior: place, look, learn, certify, correct, judge."""

from typing import Any

import jax
from jax import random

from numpyro.infer.initialization import init_to_uniform

from numpyro_sumo.guides.placement import begin_placement
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Program

from .check_inputs import check_model, check_options, check_resumed
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
        one with param sites or subsampled plates, for NaN in observed data, if the log-density is
        finite nowhere near the starts, and for other options than ``resume`` allows: ``minutes``,
        ``min_ess``, ``max_r_hat``, ``learning_rate`` and ``progress_bar`` may change.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import FitOptions, fit
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Poisson(rate).expand([3]).to_event(1), obs=y)
    >>> options = FitOptions(num_steps=200, num_samples=2_000, progress_bar=False)
    >>> posterior = fit(jax.random.key(0), model, jax.numpy.array([2, 0, 3]), options=options)
    >>> posterior.verdict.splitlines()[0]
    'good'
    >>> round(float(posterior.draws["rate"].mean()))
    2
    """
    options = FitOptions() if options is None else options
    check_options(options, resume, model, kwargs)
    clock = Clock(60.0 * options.minutes, options.progress_bar)
    programs = Programs(model, model, {}, args, kwargs)
    begin_key, rest_key = random.split(rng_key)
    if resume is None:
        check_model(model, args, kwargs)
        work = _begun(begin_key, programs, options, clock)
    else:
        work = check_resumed(resume.state, programs, options)
    work.options = options
    try:
        if resume is None:
            with clock.phase("compilation of NUTS", whole=True):
                nuts = work.nuts
            nuts.run(_LOOK, clock, "NUTS", deadline=clock.budget / 2)
        # Another fit with the same key is to have draws of its own.
        return _finished(random.fold_in(rest_key, work.num_fits), work, clock)
    finally:
        work.postpone()


def _begun(rng_key: jax.Array, programs: Programs, options: FitOptions, clock: Clock) -> Work:
    """The guide of a model, placed, with what is compiled for it."""
    place_key, work_key = random.split(rng_key)
    with clock.phase("placement", whole=True):
        placing = begin_placement(
            place_key,
            programs,
            options.num_starts,
            init_loc_fn=init_to_uniform,
            full_covariance=options.full_covariance,
        )
        # In the time that the compiler takes.
        work = Work(work_key, programs, options)
        try:
            work.place(placing())
        except BaseException:
            work.postpone()
            raise
    return work


def _finished(rng_key: jax.Array, work: Work, clock: Clock) -> Posterior:
    """Trains, certifies and corrects the guide."""
    learn_key, certify_key, chain_key = random.split(rng_key, 3)
    work.num_fits += 1
    weighed = learn(work, learn_key, clock)
    with clock.phase("certificate", whole=True):
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
        invalid=weighed.invalid,
        seconds=clock.seconds,
        interrupted=tuple(clock.interrupted),
    )
    return Posterior(chains.draws, certificate, work.placement, diagnostics, work.options, work)
