"""A certificate as a short table, in plain text and in HTML."""

from html import escape

from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

from .certified_draws import CertifiedDraws
from .verdict import BLIND_SPOT, MEANING, judge


def text_report(certificate: CertifiedDraws) -> str:
    """Figures, verdict and problems in plain text."""
    rows = _rows(certificate)
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([_title(certificate), *table, *_words(certificate)])


def html_report(certificate: CertifiedDraws) -> str:
    """The same for a notebook."""
    rows = "".join(
        "<tr>" + "".join(f"<td style='text-align: left'>{escape(c)}</td>" for c in row) + "</tr>"
        for row in _rows(certificate)
    )
    verdict, *others = _words(certificate)
    items = "".join(f"<li>{escape(line.removeprefix('- '))}</li>" for line in others)
    return (
        f"<p><b>{escape(_title(certificate))}</b></p><table>{rows}</table>"
        f"<p><b>{escape(verdict)}</b></p><ul>{items}</ul>"
    )


def _title(certificate: CertifiedDraws) -> str:
    guide = certificate.programs.guide
    name = getattr(guide, "__name__", type(guide).__name__)
    return f"Certificate of {name}, from {certificate.num_samples:,} draws"


def _rows(certificate: CertifiedDraws) -> list[tuple[str, str, str]]:
    """Rows of quantity, value with unit, and what it means."""
    c = certificate
    worst = ", of the worst datum" if c.per_datum is not None else ""
    is_exact = c.elbo_lower == c.elbo_upper
    kl = "KL(guide ‖ posterior)" if is_exact else "KL(guide ‖ posterior), upper bound"
    elbo = "ELBO" if is_exact else "ELBO, lower bound"
    effective = f"{c.ess:,.0f} of {c.num_samples:,}"
    k_hat, moment, number = c.marginals.pareto_k.worst
    of_moment = f"the largest, of the {moment} of {c.marginals.names[number]}"
    return [
        ("log-evidence", _nats(c.log_evidence, c.log_evidence_se), "log Z, or log p(x)"),
        (elbo, _nats(c.elbo_lower, c.elbo_lower_se), "below log-evidence by the KL"),
        (kl, _nats(c.kl_upper, c.kl_upper_se), "0 for the posterior itself"),
        (f"k-hat{worst}", f"{c.pareto_k:.2f}", f"up to {LARGEST_PARETO_K} is trusted"),
        ("k-hat of means and sds", f"{k_hat:.2f}", of_moment),
        (f"effective draws{worst}", effective, "by the weights"),
    ]


def _words(certificate: CertifiedDraws) -> list[str]:
    judgement = judge(certificate)
    verdict = f"Verdict: {judgement.verdict}; {MEANING[judgement.verdict]}."
    return [verdict, *(f"- {problem}" for problem in judgement.problems), f"- {BLIND_SPOT}"]


def _nats(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f} nats"
