"""Log-weights of draws from a guide under a model; each program is traced once, as a jaxpr.

From one trace of a guide come its draws, its log-densities with or without the score, its scales
and subsamples, and what depends on what: none of them runs the program again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal
import jax.numpy as jnp

from numpyro.handlers import replay, seed, substitute, trace
from numpyro.primitives import Messenger

from .abstract_jaxprs import Traced
from .jaxprs import evaluate_equations, needed_equations, sources_of
from .path_gradient import intermediates_at
from .programs import Programs, detach
from .sites import JOINT, Params, Trace, latent_sites, random_sites, scales_of

_ARRAYS = ["values", "indices", "log_density", "scale"]


@partial(jax.tree_util.register_dataclass, meta_fields=["event_dims"], data_fields=_ARRAYS)
@dataclass(frozen=True)
class Proposal:
    """A draw from a guide with its log-density: a pytree of arrays.

    :param values: of the guide's latent sites, by name; likewise ``event_dims``, as pairs.
    :param indices: of its plates, by name.
    :param log_density: log q(z | x) in nats, with an axis for each data plate.
    :param scale: of the guide's sites (subsampling, ``handlers.scale``), of the same shape. It
        multiplies finished estimates: a scaled log-weight would be a power of the weight.
    """

    values: dict[str, jax.Array]
    indices: dict[str, jax.Array]
    log_density: jax.Array
    scale: jax.Array
    event_dims: tuple[tuple[str, int], ...]

    def spread(self, of_data: jax.Array, data_dims: frozenset[int]) -> "Proposal":
        """Numbers of the data in a pytree like this one, with leaves that broadcast to its own."""
        sizes = dict(zip(sorted(data_dims), of_data.shape))
        shape = [sizes.get(dim, 1) for dim in range(min(data_dims, default=0), 0)]
        spread = {n: of_data.reshape(*shape, *[1] * dims) for n, dims in self.event_dims}
        ones = dict.fromkeys(self.indices, jnp.ones(()))
        return Proposal(spread, ones, of_data, of_data, self.event_dims)

    def messages(self) -> dict[str, dict[str, Any]]:
        """The sites in the form that :class:`numpyro.handlers.replay` reads."""

        def of_type(kind: str, values: dict[str, jax.Array]) -> dict[str, dict[str, Any]]:
            others = {"type": kind, "is_observed": False, "infer": {}}
            return {name: {"name": name, "value": v, **others} for name, v in values.items()}

        return of_type("plate", self.indices) | of_type("sample", self.values)


class Dependence(NamedTuple):
    """What the value, density or support of a site of a guide depends on.

    :param on_parameters: whether on parameters other than through random draws.
    :param draws: names of the random sites.
    """

    on_parameters: bool
    draws: frozenset[str]


class _GuideOutputs(NamedTuple):
    """What one run of a guide computes; the log-densities are not scaled and not summed.

    :param path_log_probs: the same as functions of the draws alone. For transformed draws
        ``log_probs`` are functions of the base draws instead.
    :param supports: arrays that the supports of random sites are made of.
    :param base_draws: base draws of transformed draws.
    """

    values: dict[str, jax.Array]
    indices: dict[str, jax.Array]
    log_probs: dict[str, jax.Array]
    path_log_probs: dict[str, jax.Array]
    scales: dict[str, jax.Array]
    scale: jax.Array
    supports: dict[str, list[jax.Array]]
    base_draws: dict[str, jax.Array]


class _PartialEvaluator:
    """A function traced once as a jaxpr; any part of its outputs can be evaluated by itself."""

    def __init__(self, function: Callable[..., Any], *examples: Any):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*examples)
        self.jaxpr, self._consts = traced.jaxpr, traced.consts
        #: The outputs, a pytree, with variables of the jaxpr in place of arrays.
        self.outputs = jax.tree.unflatten(jax.tree.structure(shapes), self.jaxpr.outvars)

    def evaluate(
        self,
        outputs: Any,
        inputs: Any,
        known: dict[Any, jax.Array] | None = None,
        detach_closure: bool = False,
    ) -> Any:
        """Some of the outputs at these inputs.

        :param known: variables whose values are known, and so not computed.
        :param detach_closure: no gradient flows to what the function closes over.
        """
        consts = detach(self._consts) if detach_closure else self._consts
        values = dict(zip(self.jaxpr.constvars, consts))
        values |= zip(self.jaxpr.invars, jax.tree.leaves(inputs))
        values |= known or {}
        atoms, structure = jax.tree.flatten(outputs)
        equations = needed_equations(self.jaxpr, atoms, values.keys())
        return jax.tree.unflatten(
            structure, evaluate_equations(self.jaxpr, equations, values, atoms)
        )

    def with_known(self, known: dict[Any, int | None], results: list[tuple[Any, Any]]) -> Traced:
        """The jaxpr with its known variables and its results, for proofs about elements."""
        return Traced(self.jaxpr, self._consts, known, results)


class _SeesControlFlow(Messenger):
    """Notes whether a program runs a scan or a cond."""

    seen = False

    def process_message(self, msg: dict[str, Any]) -> None:
        self.seen |= msg["type"] == "control_flow"


class TracedGuide:
    """A guide as a function of (parameters, datum, key), traced once.

    :param programs_of: maps a datum, an integer array, to the programs run for it.
    :param rng_key: any key.
    """

    #: The guide's sites. Its arrays are abstract, and of no use outside.
    trace: Trace

    def __init__(self, programs_of: Callable[[jax.Array], Programs], rng_key: jax.Array):
        datum = jnp.zeros((), jnp.int32)
        self._params = programs_of(datum).params
        self._traced = _PartialEvaluator(
            partial(self._run, programs_of), self._params, datum, rng_key
        )
        values = self._traced.outputs.values
        self._draws = {
            name: values[name]
            for name in random_sites(self.trace)
            if not isinstance(values[name], Literal)
        }

    def _run(
        self,
        programs_of: Callable[[jax.Array], Programs],
        params: Params,
        datum: jax.Array,
        rng_key: jax.Array,
    ) -> _GuideOutputs:
        programs = programs_of(datum)
        guide = substitute(seed(programs.guide, rng_key), data=params)
        control_flow = _SeesControlFlow(guide)
        self.trace = trace(control_flow).get_trace(*programs.args, **programs.kwargs)
        self._has_control_flow = control_flow.seen
        sites = {n: site for n, site in self.trace.items() if site["type"] == "sample"}
        log_probs = {n: _log_prob(site, site["intermediates"]) for n, site in sites.items()}
        on_path = {
            n: _log_prob(site, intermediates_at(site["fn"], site["value"], site["intermediates"]))
            for n, site in sites.items()
            if site["intermediates"]
        }
        return _GuideOutputs(
            values={n: site["value"] for n, site in latent_sites(sites).items()},
            indices={n: s["value"] for n, s in self.trace.items() if s["type"] == "plate"},
            log_probs=log_probs,
            path_log_probs={**log_probs, **on_path},
            scales={n: jnp.asarray(scale) for n, scale in scales_of(sites).items()},
            scale=jnp.asarray(_common_scale(scales_of(sites)), jnp.result_type(float)),
            supports={n: jax.tree.leaves(s["fn"].support) for n, s in random_sites(sites).items()},
            base_draws={
                n: site["intermediates"][0][0]
                for n, site in random_sites(sites).items()
                if site["intermediates"]
            },
        )

    def propose(
        self,
        inputs: tuple[Params, jax.Array, jax.Array],
        data_dims: frozenset[int] = JOINT,
        *,
        score_free: bool = False,
        detach_args: bool = False,
        scaled: bool = False,
    ) -> Proposal:
        """A draw; see the function :func:`propose`.

        :param inputs: parameters, datum and key.
        :param detach_args: no gradient flows to the arguments.
        :param scaled: whether each site's log-density is scaled as in the program, and the
            proposal's scale is one.
        """
        evaluate, outputs, draws = self._traced.evaluate, self._outputs, {}
        log_probs = outputs.log_probs
        if score_free:
            values = evaluate(list(self._draws.values()), inputs, detach_closure=detach_args)
            draws = dict(zip(self._draws.values(), values))
            inputs, detach_args, log_probs = detach(inputs), True, outputs.path_log_probs
        wanted = outputs.values, outputs.indices, log_probs, outputs.scale, outputs.scales
        values, indices, log_probs, scale, scales = evaluate(wanted, inputs, draws, detach_args)
        if scaled:
            log_probs = {name: scales[name] * log_prob for name, log_prob in log_probs.items()}
            scale = jnp.ones(())
        log_density = sum_to_data(log_probs, data_dims)
        others = tuple(d for d in range(-scale.ndim, 0) if d not in data_dims)
        # One number along the other axes, as the checks make sure of.
        scale = jnp.broadcast_to(jnp.max(scale, others), log_density.shape)
        event_dims = tuple(
            (n, getattr(site["fn"], "event_dim", 0)) for n, site in latent_sites(self.trace).items()
        )
        scale = scale.astype(log_density.dtype)
        return Proposal(values, indices, log_density, scale, event_dims)

    def indices(self, datum: jax.Array, plate: str, rng_key: jax.Array) -> jax.Array:
        """The indices of a plate, for one datum."""
        indices: jax.Array = self._traced.evaluate(
            self._outputs.indices[plate], (self._params, datum, rng_key)
        )
        return indices

    @property
    def _outputs(self) -> _GuideOutputs:
        outputs: _GuideOutputs = self._traced.outputs
        return outputs

    def batch(self, plate: str, dim: int) -> Traced:
        """What one run computes of the elements of a plate, for the proofs of independence.

        The plate's indices and the draws are known; log-densities, and values that are computed,
        are results.
        """
        outputs, random = self._outputs, random_sites(self.trace)
        known: dict[Any, int | None] = {outputs.indices[plate]: 0}
        results = []
        for name, value in outputs.values.items():
            axis = _axis_of_elements(self.trace[name], dim)
            if name in random:
                known[outputs.base_draws.get(name, value)] = axis
            if name not in random or name in outputs.base_draws:
                results.append((value, axis))
        for log_prob in outputs.log_probs.values():
            axis = log_prob.aval.ndim + dim
            results.append((log_prob, axis if axis >= 0 else None))
        known = {atom: axis for atom, axis in known.items() if not isinstance(atom, Literal)}
        return self._traced.with_known(known, results)

    @cached_property
    def dependences(self) -> tuple[dict[str, Dependence], dict[str, Dependence]]:
        """What sites that are not drawn depend on, and what the supports of those that are do."""
        jaxpr = self._traced.jaxpr
        parameters = jaxpr.invars[: len(jax.tree.leaves(self._params))]
        sources: dict[Any, frozenset[Any]] = dict.fromkeys(parameters, frozenset([_PARAMETERS]))
        sources |= {variable: frozenset([name]) for name, variable in self._draws.items()}

        def of_site(atoms: list[Any]) -> Dependence:
            union: frozenset[Any] = frozenset().union(*sources_of(jaxpr, atoms, sources))
            return Dependence(_PARAMETERS in union, union - {_PARAMETERS})

        computed = {
            name: of_site([*jax.tree.leaves(self._outputs.values.get(name)), log_prob])
            for name, log_prob in self._outputs.log_probs.items()
            if name not in self._outputs.supports
        }
        return computed, {name: of_site(atoms) for name, atoms in self._outputs.supports.items()}

    @property
    def why_no_dreg(self) -> str | None:
        """What forbids the doubly reparameterised gradient for this guide, in words, or None.

        The score has mean zero only if parameters act through reparameterised draws. It has not for
        a Delta at a parameter or for a support that depends on a parameter.
        """
        computed, supports = self.dependences
        for name, of_site in computed.items():
            if of_site.on_parameters:
                return f"site '{name}', a Delta or a factor, depends on a parameter directly"
        for name, of_support in supports.items():
            if of_support.on_parameters:
                return f"site '{name}' has a support that depends on a parameter"
        return "draws are made inside a scan or a cond" if self._has_control_flow else None


class TracedModel:
    """A model as a function of (parameters, datum, key, proposal), traced once.

    :param programs_of: as in :class:`TracedGuide`.
    :param guide: whose draws the model is run at.
    :param rng_key: any key.
    :param check: is given the traces of model and guide before densities are computed.
    """

    #: The model's sites. Its arrays are abstract, and of no use outside.
    trace: Trace

    def __init__(
        self,
        programs_of: Callable[[jax.Array], Programs],
        guide: TracedGuide,
        rng_key: jax.Array,
        check: Callable[[Trace, Trace], None] = lambda model_trace, guide_trace: None,
    ):
        datum = jnp.zeros((), jnp.int32)
        params = programs_of(datum).params
        # Scaled, so that its scale is one number: the data plates are not known yet.
        proposal = jax.eval_shape(lambda: guide.propose((params, datum, rng_key), scaled=True))
        self._guide, self._proposal = guide, proposal

        def run(
            params: Params, datum: jax.Array, rng_key: jax.Array, proposal: Proposal
        ) -> dict[str, jax.Array]:
            programs = programs_of(datum).replace(params=params)
            self.trace = _trace_model(rng_key, programs, proposal)
            check(self.trace, guide.trace)
            return _log_joint(self.trace)

        self._traced = _PartialEvaluator(run, params, datum, rng_key, proposal)

    def batch(self, plate: str, dim: int) -> Traced:
        """As :meth:`TracedGuide.batch`: the proposal is known, log-densities are results."""
        size = len(jax.tree.leaves(self._proposal))
        variables = self._traced.jaxpr.invars[-size:] if size else []
        structure = jax.tree.structure(self._proposal)
        proposal = jax.tree.unflatten(structure, variables)
        sites = self._guide.trace
        known = {v: _axis_of_elements(sites[n], dim) for n, v in proposal.values.items()}
        known[proposal.indices[plate]] = 0
        results = [
            (log_prob, axis if (axis := log_prob.aval.ndim + dim) >= 0 else None)
            for log_prob in self._traced.outputs.values()
        ]
        return self._traced.with_known(known, results)

    def log_probs(self, inputs: Any, detached: bool = False) -> dict[str, jax.Array]:
        """Scaled log-densities of all sites, not summed, in nats.

        :param inputs: parameters, datum, key and proposal.
        :param detached: no gradient flows to parameters and arguments, only to the proposal.
        """
        *_, proposal = inputs
        # The proposal's own gradient stays: its variables are known.
        leaves = jax.tree.leaves(proposal)
        variables = self._traced.jaxpr.invars[-len(leaves) :] if leaves else []
        found: dict[str, jax.Array] = self._traced.evaluate(
            self._traced.outputs,
            detach(inputs) if detached else inputs,
            dict(zip(variables, leaves)),
            detached,
        )
        return found


def _axis_of_elements(site: dict[str, Any], dim: int) -> int | None:
    """The axis of a site's value along which it has the elements of the plate at a dimension."""
    axis = len(site["fn"].batch_shape) + dim
    return axis if axis >= 0 else None


def propose(
    rng_key: jax.Array,
    programs: Programs,
    data_dims: frozenset[int] = JOINT,
    score_free: bool = False,
) -> Proposal:
    r"""A draw z from the guide with :math:`\log q_\phi(z \mid x)`.

    :param data_dims: batch dimensions (negative) over which weights are kept apart.
    :param score_free: whether the log-density is differentiated through z alone.
    :return: the draw; its log-density is a scalar where there are no data plates.
    """
    guide = TracedGuide(lambda datum: programs, rng_key)
    inputs = programs.params, jnp.zeros((), jnp.int32), rng_key
    return guide.propose(inputs, data_dims, score_free=score_free)


def log_weight(
    rng_key: jax.Array,
    programs: Programs,
    proposal: Proposal,
    data_dims: frozenset[int] = JOINT,
) -> jax.Array:
    r"""One log-weight :math:`\ell = \log p_\theta(x, z) - \log q_\phi(z \mid x)` of a proposed z.

    The model's log-densities are taken relative to the guide's scale: a scale that the two have in
    common is no part of the weight.

    :return: the log-weight in nats, shaped as the proposal's log-density.
    """
    log_probs = _log_joint(_trace_model(rng_key, programs, proposal))
    return weight_of(log_probs, proposal, data_dims)


def weight_of(
    log_probs: dict[str, jax.Array], proposal: Proposal, data_dims: frozenset[int]
) -> jax.Array:
    """The log-weight from the model's log-densities, in nats."""
    return without_scale(sum_to_data(log_probs, data_dims), proposal.scale) - proposal.log_density


def without_scale(log_prob: jax.Array, scale: jax.Array) -> jax.Array:
    """A scaled log-density without its scale; what was scaled by zero stays zero."""
    return log_prob / jnp.where(scale == 0.0, 1.0, scale)


def sum_to_data(log_probs: dict[str, jax.Array], data_dims: frozenset[int]) -> jax.Array:
    """Log-densities of all sites, summed over every dimension except the data's."""
    total = jnp.zeros(())
    for log_prob in log_probs.values():
        others = (d for d in range(-jnp.ndim(log_prob), 0) if d not in data_dims)
        total = total + jnp.sum(log_prob, axis=tuple(others))
    return total


def _trace_model(rng_key: jax.Array, programs: Programs, proposal: Proposal) -> Trace:
    """The model's sites at a proposed draw."""
    model = replay(seed(programs.model, rng_key), proposal.messages())
    model = substitute(model, data=programs.params)
    sites: Trace = trace(model).get_trace(*programs.args, **programs.kwargs)
    return sites


def _log_joint(model_trace: Trace) -> dict[str, jax.Array]:
    """Scaled log-densities of the sites of a model, not summed, in nats."""
    log_probs = {}
    for name, site in model_trace.items():
        if site["type"] == "sample":
            log_prob = _log_prob(site, site["intermediates"])
            log_probs[name] = log_prob if site["scale"] is None else site["scale"] * log_prob
    return log_probs


def _log_prob(site: dict[str, Any], intermediates: list[Any]) -> jax.Array:
    """The log-density of a site at its value, not scaled; zero where it is scaled by zero."""
    known = (intermediates,) if intermediates else ()
    log_prob: jax.Array = site["fn"].log_prob(site["value"], *known)
    scale = site["scale"]
    return log_prob if scale is None else jnp.where(scale == 0.0, 0.0, log_prob)


def _common_scale(scales: dict[str, Any]) -> Any:
    """The scale that all sites share; NaN where they do not (and were traced, see the checks)."""
    if not scales:
        return 1.0
    first, *others = scales.values()
    if all(not isinstance(scale, jax.core.Tracer) for scale in scales.values()):
        return first
    same = jnp.asarray(True)
    for scale in others:
        same &= jnp.all(scale == first)
    return jnp.where(same, first, jnp.nan)


#: No site has this name: NumPyro's are strings.
_PARAMETERS = None
