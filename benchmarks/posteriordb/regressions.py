"""Linear regressions of posteriordb, each by its outcome, its columns and its priors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriordb.database import Data

Model = Callable[[], None]


@dataclass(frozen=True)
class Regression:
    """y ~ Normal(X β, σ) with flat priors where none are given.

    :param outcome: maps data to y; data are arrays, attributes by Stan's names.
    :param columns: maps data to the columns of X after that of ones.
    :param sigma: the prior of σ.
    """

    outcome: Callable[[Any], np.ndarray]
    columns: Callable[[Any], Sequence[np.ndarray]]
    sigma: dist.Distribution | None = None

    def __call__(self, data: Data) -> Model:
        """The model of these data."""
        arrays = SimpleNamespace(**{key: np.asarray(value, float) for key, value in data.items()})
        outcome = self.outcome(arrays)
        design = np.stack([np.ones(len(outcome)), *self.columns(arrays)], axis=1)
        return linear_regression(design, outcome, sigma=self.sigma)


def flat(support: Any, size: int | None = None) -> dist.Distribution:
    """The improper uniform prior of a number, or of a vector of this size."""
    return dist.ImproperUniform(support, (), () if size is None else (size,))


def linear_regression(
    design: Any,
    outcome: Any,
    beta: dist.Distribution | None = None,
    sigma: dist.Distribution | None = None,
) -> Model:
    """The model y ~ Normal(X β, σ).

    :param design: X, shape ``(data, columns)``.
    :param outcome: y, shape ``(data,)``.
    :param beta: the prior of β, flat if None, as is ``sigma``, that of σ.
    """
    x, y = jnp.asarray(design, jnp.float32), jnp.asarray(outcome, jnp.float32)
    prior_beta = beta if beta is not None else flat(constraints.real_vector, x.shape[1])
    prior_sigma = sigma if sigma is not None else flat(constraints.positive)

    def model() -> None:
        beta = numpyro.sample("beta", prior_beta)
        sigma = numpyro.sample("sigma", prior_sigma)
        numpyro.sample("y", dist.Normal(x @ beta, sigma).to_event(1), obs=y)

    return model


def blr(data: Data) -> Model:
    """Normal priors on all coefficients, without an intercept."""
    beta = dist.Normal(0.0, 10.0).expand([data["D"]]).to_event(1)
    return linear_regression(data["X"], data["y"], beta, dist.HalfNormal(10.0))


def kilpisjarvi(data: Data) -> Model:
    """A line through temperatures of summers, with priors from the data file."""
    x, y = jnp.asarray(data["x"], jnp.float32), jnp.asarray(data["y"], jnp.float32)

    def model() -> None:
        alpha = numpyro.sample("alpha", dist.Normal(data["pmualpha"], data["psalpha"]))
        beta = numpyro.sample("beta", dist.Normal(data["pmubeta"], data["psbeta"]))
        sigma = numpyro.sample("sigma", flat(constraints.positive))
        numpyro.sample("y", dist.Normal(alpha + beta * x, sigma).to_event(1), obs=y)

    return model


def diamonds(data: Data) -> Model:
    """24 centred columns and Student's t priors, as brms writes it."""
    x = np.asarray(data["X"], float)[:, 1:]
    centred, y = jnp.asarray(x - x.mean(axis=0), jnp.float32), jnp.asarray(data["Y"], jnp.float32)

    def model() -> None:
        b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        intercept = numpyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
        sigma = numpyro.sample("sigma", flat(constraints.positive))
        numpyro.factor("prior_sigma", dist.StudentT(3.0, 0.0, 10.0).log_prob(sigma))
        numpyro.sample("y", dist.Normal(intercept + centred @ b, sigma).to_event(1), obs=y)

    return model


def _standardised(values: np.ndarray, sds: float = 1.0) -> np.ndarray:
    """Values minus their mean, in units of so many sds."""
    return (values - values.mean()) / (sds * values.std(ddof=1))


def _products(one: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Two columns and their interaction."""
    return [one, other, one * other]


def _is(values: np.ndarray, *levels: int) -> list[np.ndarray]:
    """An indicator of each level."""
    return [values == level for level in levels]


def _log_weight(data: Any) -> np.ndarray:
    return np.log(data.weight)


def _log_volume(data: Any) -> np.ndarray:
    return np.log(data.diam1 * data.diam2 * data.canopy_height)


def _log_area(data: Any) -> np.ndarray:
    return np.log(data.diam1 * data.diam2)


def _log_shape(data: Any) -> np.ndarray:
    return np.log(data.diam1 / data.diam2)


def _log_earn(data: Any) -> np.ndarray:
    return np.log(data.earn)


def _score(data: Any) -> np.ndarray:
    return data.kid_score


_EARNINGS = {
    "earn_height": Regression(lambda d: d.earn, lambda d: [d.height]),
    "log10earn_height": Regression(lambda d: np.log10(d.earn), lambda d: [d.height]),
    "logearn_height": Regression(_log_earn, lambda d: [d.height]),
    "logearn_height_male": Regression(_log_earn, lambda d: [d.height, d.male]),
    "logearn_interaction": Regression(_log_earn, lambda d: _products(d.height, d.male)),
    "logearn_interaction_z": Regression(
        _log_earn, lambda d: _products(_standardised(d.height), d.male)
    ),
    "logearn_logheight_male": Regression(_log_earn, lambda d: [np.log(d.height), d.male]),
}

_HALF_CAUCHY = dist.HalfCauchy(2.5)

_KIDS = {
    "kidscore_momhs": Regression(_score, lambda d: [d.mom_hs], _HALF_CAUCHY),
    "kidscore_momiq": Regression(_score, lambda d: [d.mom_iq], _HALF_CAUCHY),
    "kidscore_momhsiq": Regression(_score, lambda d: [d.mom_hs, d.mom_iq], _HALF_CAUCHY),
    "kidscore_interaction": Regression(
        _score, lambda d: _products(d.mom_hs, d.mom_iq), _HALF_CAUCHY
    ),
    "kidscore_interaction_c": Regression(
        _score, lambda d: _products(d.mom_hs - d.mom_hs.mean(), d.mom_iq - d.mom_iq.mean())
    ),
    "kidscore_interaction_c2": Regression(
        _score, lambda d: _products(d.mom_hs - 0.5, d.mom_iq - 100.0)
    ),
    "kidscore_interaction_z": Regression(
        _score, lambda d: _products(_standardised(d.mom_hs, 2.0), _standardised(d.mom_iq, 2.0))
    ),
    "kidscore_mom_work": Regression(_score, lambda d: _is(d.mom_work, 2, 3, 4)),
}

_MESQUITE = {
    "mesquite": Regression(
        lambda d: d.weight,
        lambda d: [d.diam1, d.diam2, d.canopy_height, d.total_height, d.density, d.group],
    ),
    "logmesquite": Regression(
        _log_weight,
        lambda d: [
            *np.log([d.diam1, d.diam2, d.canopy_height, d.total_height, d.density]),
            d.group,
        ],
    ),
    "logmesquite_logva": Regression(_log_weight, lambda d: [_log_volume(d), _log_area(d), d.group]),
    "logmesquite_logvas": Regression(
        _log_weight,
        lambda d: [
            *(_log_volume(d), _log_area(d), _log_shape(d)),
            *np.log([d.total_height, d.density]),
            d.group,
        ],
    ),
    "logmesquite_logvash": Regression(
        _log_weight,
        lambda d: [_log_volume(d), _log_area(d), _log_shape(d), np.log(d.total_height), d.group],
    ),
    "logmesquite_logvolume": Regression(_log_weight, lambda d: [_log_volume(d)]),
}

_ELECTIONS = Regression(
    lambda d: d.partyid7,
    lambda d: [
        *(d.real_ideo, d.race_adj, *_is(d.age_discrete, 2, 3, 4)),
        *(d.educ1, d.gender, d.income),
    ],
)

#: By Stan's name of the model: maps data to the model.
REGRESSIONS: dict[str, Callable[[Data], Model]] = {
    **(_EARNINGS | _KIDS | _MESQUITE),
    "nes": _ELECTIONS,
    "blr": blr,
    "kilpisjarvi": kilpisjarvi,
    "diamonds": diamonds,
}
