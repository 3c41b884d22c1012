"""Covariances of maximum-likelihood estimates from independent estimates of the derivatives."""

from typing import Any, NamedTuple

import numpy as np

#: Smallest eigenvalue of an information matrix, in multiples of its Monte Carlo error.
_SMALLEST_Z = 3.0


class Covariances(NamedTuple):
    """A covariance matrix, and the same with each of the R estimates left out in turn.

    :param of_all: shape ``(P, P)``.
    :param left_out: shape ``(R, P, P)``.
    """

    of_all: np.ndarray
    left_out: np.ndarray

    def errors(self, jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors of functions of the parameters, and their Monte Carlo errors.

        :param jacobian: of n functions, shape ``(n, P)``.
        :return: arrays of shape ``(n,)``; NaN where the estimated variance is negative.
        """

        def standard_error(covariance: np.ndarray) -> np.ndarray:
            variances = np.einsum("np,...pq,nq->...n", jacobian, covariance, jacobian)
            with np.errstate(invalid="ignore"):
                return np.sqrt(variances)

        return standard_error(self.of_all), jackknife_error(standard_error(self.left_out))


def jackknife_error(left_out: np.ndarray) -> np.ndarray:
    """Standard error of a statistic, from its values with each of R observations left out."""
    number = len(left_out)
    error: np.ndarray = np.sqrt((number - 1.0) * left_out.var(axis=0))
    return error


def check_information(informations: np.ndarray, names: tuple[str, ...], precision: float) -> None:
    """Refuses an information matrix that is not positive definite, in view of its error.

    :param informations: independent estimates, shape ``(R, P, P)``.
    :param names: of the unconstrained parameters.
    :param precision: of the floats they were computed with.
    :raises ValueError: with the combination of parameters that is not identified.
    """
    mean = informations.mean(axis=0)
    scale = np.sqrt(np.abs(np.diag(mean)))
    scale = np.where(scale == 0.0, 1.0, scale)
    values, vectors = np.linalg.eigh(mean / np.outer(scale, scale))
    direction = vectors[:, 0] / scale
    each = np.einsum("p,rpq,q->r", direction, informations, direction)
    error = each.std(ddof=1) / len(each) ** 0.5
    if values[0] > max(100.0 * precision, _SMALLEST_Z * error):
        return
    direction /= direction[np.argmax(np.abs(vectors[:, 0]))]
    chosen = np.abs(vectors[:, 0]) > 0.1 * np.abs(vectors[:, 0]).max()
    moves = ", ".join(
        f"{name} {move:+.3g}" for name, move, take in zip(names, direction, chosen) if take
    )
    raise ValueError(
        "Expected data that identify every parameter; the information along "
        f"({moves}) is {values[0]:.2g} ± {error:.1g}, where it is 1 along each alone. Leave one "
        "of these parameters out or fix it, train to the maximum, or raise num_estimates."
    )


def inverse_information(informations: np.ndarray) -> Covariances:
    """The inverse of the mean information matrix; ``informations`` has shape ``(R, P, P)``."""
    total, number = informations.sum(axis=0), len(informations)
    return Covariances(
        np.linalg.inv(total / number), np.linalg.inv((total - informations) / (number - 1))
    )


def sandwich(bread: Covariances, scores: np.ndarray) -> Covariances:
    r"""The sandwich :math:`A^{-1} B A^{-1}`, with :math:`B = \sum_i s_i s_i^\top`.

    Products of two *independent* estimates of a score are unbiased for :math:`s_i s_i^\top`; B is
    the mean over all pairs.

    :param bread: inverse information.
    :param scores: R independent estimates, shape ``(R, num_data, P)``.
    """
    number = len(scores)
    total = scores.sum(axis=0)
    squares = np.einsum("rip,riq->rpq", scores, scores, optimize=True)
    of_total, of_squares = total.T @ total, squares.sum(axis=0)
    with_one = np.einsum("ip,riq->rpq", total, scores, optimize=True)
    pairs = of_total - of_squares
    # Without estimate r: the total is less by s_r, and the squares by those of s_r.
    fewer = pairs - with_one - np.swapaxes(with_one, 1, 2) + 2.0 * squares
    meat, meats = pairs / (number * (number - 1)), fewer / ((number - 1) * (number - 2))
    wrap: Any = lambda bread, meat: bread @ meat @ bread
    return Covariances(wrap(bread.of_all, meat), wrap(bread.left_out, meats))


def newton_step(bread: Covariances, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton's step from the parameters to the maximum, and its Monte Carlo error, ``(P,)``."""
    each = scores.sum(axis=1)
    total = each.sum(axis=0)
    left_out = np.einsum("rpq,rq->rp", bread.left_out, (total - each) / (len(each) - 1))
    return bread.of_all @ (total / len(each)), jackknife_error(left_out)
