"""What is known of a guide from its weighted draws: figures, a verdict, a picture."""

from dataclasses import dataclass
from typing import Any

from .certified_draws import CertifiedDraws
from .report import html_report, text_report
from .verdict import judge


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(CertifiedDraws):
    """Estimates from draws of a guide, with a verdict.

    ``print(certificate)`` shows both, and :meth:`plot` draws them. The fields are those of
    :class:`~numpyro_sumo.certificates.certified_draws.CertifiedDraws`, in nats with standard errors
    (``_se``): ``log_evidence``, ``kl_upper``, ``pareto_k``, ``ess``, ``draws``, ``resampled``, and
    others.
    """

    @property
    def verdict(self) -> str:
        """What to do with this guide: "good", "correct it", or "do not trust it".

        Good: its draws may be used as they are; by their weights, each mean is within 0.1 posterior
        sds, each sd within 10 %, and the KL at most 0.1 nats (0.002 for each latent number if these
        are more than 50). Correct it: use :attr:`resampled` or
        :class:`~numpyro_sumo.IndependenceMetropolis`. Do not trust it: nor its weights. A mode that
        the guide never draws is seen by none of these.
        """
        return judge(self).verdict

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong, and what to do about it."""
        return judge(self).problems

    def __str__(self) -> str:
        return text_report(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_report(self)

    def plot(self, sites: list[str] | None = None) -> Any:
        """Draws the tail of the weights with k-hat, and marginals as drawn and as corrected.

        :param sites: names of the latent sites to draw, at most 12 numbers; None for the worst.
        :return: a matplotlib figure.
        :raises ValueError: for a site that is none of the certificate's, or without matplotlib.
        """
        from .plot import plot_certificate

        return plot_certificate(self, sites)
