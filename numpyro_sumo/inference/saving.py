"""Posteriors in files."""

from dataclasses import asdict
from typing import Any

from numpyro_sumo.certificates.array_files import PathLike, read_tree, write_tree
from numpyro_sumo.certificates.saving import certificate_from, certificate_tree
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.placement import Mode, Placement
from numpyro_sumo.guides.whitening import Whitening
from numpyro_sumo.programs.programs import Programs

from .convergence import Summary
from .options import FitOptions
from .posterior_draws import Diagnostics, PosteriorDraws


def write_posterior(path: PathLike, posterior: PosteriorDraws) -> None:
    """See :meth:`.Posterior.save`."""
    tree = {
        "draws": posterior.draws,
        "certificate": certificate_tree(posterior.certificate),
        "placement": asdict(posterior.placement),
        "diagnostics": posterior.diagnostics._asdict(),
        "options": asdict(posterior.options),
    }
    write_tree(path, "posterior", tree)


def read_posterior(path: PathLike, programs: Programs) -> dict[str, Any]:
    """The fields of a posterior from a file; see :meth:`.Posterior.load`.

    :param programs: the model with its arguments.
    """
    tree = read_tree(path, "posterior")
    placement, options = _placement(tree["placement"]), FitOptions(**tree["options"])
    guide = AutoHierarchicalNormal(
        programs.model, hidden_sizes=options.hidden_sizes, placement=placement
    )
    certificate = certificate_from(tree["certificate"], guide, programs)
    guide.prepare(*programs.args, **programs.kwargs)
    diagnostics = tree["diagnostics"]
    nuts = diagnostics.pop("nuts")
    diagnostics = Diagnostics(
        **diagnostics | {"summary": Summary(*diagnostics["summary"])},
        nuts=None if nuts is None else Summary(*nuts),
    )
    return {
        "draws": tree["draws"],
        "certificate": certificate,
        "placement": placement,
        "diagnostics": diagnostics,
        "options": options,
    }


def _placement(tree: dict[str, Any]) -> Placement:
    modes = tuple(Mode(Whitening(*normal), *rest) for normal, *rest in tree["modes"])
    return Placement(**tree | {"whitening": Whitening(*tree["whitening"]), "modes": modes})
