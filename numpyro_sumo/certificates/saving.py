"""Certificates in files: arrays as safetensors, the rest as JSON in the same file."""

from dataclasses import fields
import hashlib
import inspect
import os
from typing import Any

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro.infer import autoguide

from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.extended_draws import ExtendedDraws
from numpyro_sumo.guides.proposals import proposal_of
from numpyro_sumo.programs.log_target import log_target
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Program

from .array_files import JSON, read_tree, write_tree
from .certificate import Certificate
from .certified_draws import PerDatum
from .plated import Plated
from .weights import WeightSummary

#: Options of automatic guides that do not matter once they are trained.
_OF_TRAINING = {
    "self",
    "model",
    "init_loc_fn",
    "init_scale",
    "forward_mode_differentiation",
    "hessian_fn",
    "placement",
}
_UNKNOWN = object()

#: Draws at which the model is compared with the one that was certified.
_COMPARED = 3


def save(path: str | os.PathLike[str], certificate: Certificate) -> None:
    """Writes a certificate with its guide's kind and options, params, draws and key to one file.

    The file holds arrays (safetensors) and JSON, no code: :func:`load` needs the model, its
    arguments, and a guide that was written by hand.

    :param path: of the file; an existing one is replaced when the new one is complete.
    :raises ValueError: if its folder does not exist, or the params hold something else than arrays
        in dicts, lists and tuples.

    >>> import jax, numpyro, numpyro.distributions as dist, tempfile, pathlib
    >>> from numpyro_sumo import certify, load, save
    >>> def model():
    ...     numpyro.sample("x", dist.LogNormal(1.0, 0.5))
    >>> def guide():
    ...     numpyro.sample("x", dist.LogNormal(0.9, 0.6))
    >>> certificate = certify(jax.random.key(0), model, guide, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(pathlib.Path(folder) / "fit.safetensors", certificate)
    ...     again = load(pathlib.Path(folder) / "fit.safetensors", model, guide=guide)
    >>> again.log_evidence == certificate.log_evidence
    True
    """
    write_tree(path, "certificate", certificate_tree(certificate))


def load(
    path: str | os.PathLike[str],
    model: Program,
    *args: Any,
    guide: Program | None = None,
    **kwargs: Any,
) -> Certificate:
    """Reads a certificate that :func:`save` has written.

    :param path: of the file.
    :param model: the model that was certified, and its arguments, as are ``kwargs``. Its density
        at some of the draws is compared with the file's.
    :param guide: the guide; None for an automatic guide, which is made again.
    :return: the certificate; ``certificate.programs`` has guide and params.
    :raises ValueError: for a file that does not exist, is incomplete, of another format, or of
        another model or data; without a guide that was written by hand.
    """
    tree = read_tree(path, "certificate")
    return certificate_from(tree, guide, Programs(model, model, {}, args, kwargs))


def certificate_tree(certificate: Certificate) -> dict[str, Any]:
    """A certificate as arrays and plain values, with the kind and options of its guide."""
    values = {field.name: getattr(certificate, field.name) for field in fields(certificate)}
    programs, plated = values.pop("programs"), values.pop("plated")
    return {
        **values,
        "plated": {"data_dims": list(plated.data_dims), "event_dims": plated.event_dims},
        "params": dict(programs.params),
        "rng_key": random.key_data(values["rng_key"]),
        "key_impl": str(random.key_impl(certificate.rng_key)),
        "guide": _describe(programs),
        "inputs": _fingerprint(programs),
    }


def certificate_from(
    tree: dict[str, Any], guide: Program | None, programs: Programs
) -> Certificate:
    """The inverse of :func:`certificate_tree`.

    :param guide: None for an automatic guide, which is made again.
    :param programs: the model with its arguments.
    :raises ValueError: for another model, guide or data.
    """
    values = dict(tree)
    described, inputs = values.pop("guide"), values.pop("inputs")
    guide = _guide(described, programs.model) if guide is None else guide
    programs = programs.replace(guide=guide, params=values.pop("params"))
    key = random.wrap_key_data(values.pop("rng_key"), impl=values.pop("key_impl"))
    weights, per_datum = WeightSummary(*values.pop("weights")), values.pop("per_datum")
    plated = values.pop("plated")
    certificate = Certificate(
        **values,
        weights=weights,
        per_datum=None if per_datum is None else PerDatum(*per_datum),
        plated=Plated(tuple(plated["data_dims"]), plated["event_dims"]),
        programs=programs,
        rng_key=key,
    )
    if inputs != _fingerprint(programs):
        raise ValueError(
            "Expected the arguments that were certified; those of the file are others. Pass the "
            "same data."
        )
    few = {name: values[:_COMPARED] for name, values in certificate.latents.items()}
    _check_model(certificate, few)
    _check_guide(certificate, few)
    return certificate


def _describe(programs: Programs) -> dict[str, Any]:
    """The class and options of an automatic guide; no class if it cannot be made again from them.

    That is a guide written by hand, one of another program than the model, or one with an option
    that is no plain value.
    """
    guide: Any = programs.guide
    if not isinstance(guide, autoguide.AutoGuide) or guide.model is not programs.model:
        return {"class": None}
    options = {}
    for name, parameter in inspect.signature(type(guide).__init__).parameters.items():
        if name in _OF_TRAINING:
            continue
        value = getattr(guide, name, getattr(guide, f"_{name}", _UNKNOWN))
        if value is parameter.default:
            continue
        parts = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(part, JSON) for part in parts):
            return {"class": None}
        options[name] = value
    return {"class": type(guide).__name__, "options": options}


def _fingerprint(programs: Programs) -> str:
    """A hash of the arguments of model and guide, arrays in JAX's precision."""
    digest = hashlib.sha256()
    leaves, structure = jax.tree.flatten((programs.args, programs.kwargs))
    digest.update(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, np.ndarray | np.generic | jax.Array | float):
            array = np.asarray(jnp.asarray(leaf))
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def _guide(description: dict[str, Any], model: Program) -> Program:
    """An automatic guide made again."""
    name = description["class"]
    known = {"AutoHierarchicalNormal": AutoHierarchicalNormal, **vars(autoguide)}
    if name not in known or name == "AutoGuideList":
        raise ValueError(
            f"Expected the guide that was certified, {name or 'written by hand'}, which a file "
            "cannot hold; got none. Pass guide=..."
        )
    guide: Program = known[name](model, **description["options"])
    return guide


def _check_model(certificate: Certificate, few: dict[str, np.ndarray]) -> None:
    """Refuses a model under which the draws have other densities than when they were saved."""
    programs, expected = certificate.programs, certificate.log_target[:_COMPARED]
    try:
        of_draw = lambda latents: log_target(random.key(0), programs, latents)
        found = np.asarray(jax.vmap(of_draw)(few))
        is_same = np.allclose(found, expected, rtol=1e-5, atol=1e-3, equal_nan=True)
    except (TypeError, ValueError, KeyError):
        is_same = False
    if not is_same:
        raise ValueError(
            "Expected the model and data that were certified; those of the file give the draws "
            "other densities. Pass the same model and arguments."
        )


def _check_guide(certificate: Certificate, few: dict[str, np.ndarray]) -> None:
    """Refuses a guide under which the draws have other densities than when they were saved."""
    proposal = proposal_of(certificate.programs, 1, 0.0)
    proposal.check()
    if isinstance(proposal, ExtendedDraws):
        return  # its density is an estimate
    expected = (certificate.log_target - certificate.log_weights)[:_COMPARED]
    try:
        density = jax.vmap(lambda latents: proposal.log_density(random.key(0), latents))(few)
    except NotImplementedError:
        return  # a flow without an inverse
    if not np.allclose(density, expected, rtol=1e-3, atol=1e-2):
        raise ValueError(
            "Expected the guide that was certified; that of the file gives its draws other "
            "densities. Pass the same guide, with the same options."
        )
