"""A model run at a guide's draws, traced once as a jaxpr."""

from collections.abc import Callable, Sequence
import copy
from typing import Any

import jax
import jax.numpy as jnp

from numpyro.handlers import replay, seed, substitute, trace

from .cut_control_flow import Place
from .jaxprs import PartialEvaluator, detach
from .log_weights import GuideDraw, log_joint, weight_of
from .one_element import Cut, OneElement
from .programs import Programs
from .sites import JOINT, Params, Trace
from .traced_guide import ProgramsOf, TracedGuide
from .varying import Kind


class TracedModel:
    """A model as a function of (parameters, datum, key, proposal), traced once.

    :param guide: whose draws the model is run at.
    :param rng_key: any key.
    :param split: as in :class:`TracedGuide`.
    :param check: is given the traces of model and guide before densities are computed.
    """

    #: The model's sites. Its arrays are abstract, and of no use outside.
    trace: Trace

    def __init__(
        self,
        programs_of: ProgramsOf,
        guide: TracedGuide,
        rng_key: jax.Array,
        split: Sequence[jax.Array] = (),
        check: Callable[[Trace, Trace], None] = lambda model_trace, guide_trace: None,
    ):
        datum = jnp.zeros((), jnp.int32)
        params = programs_of(datum, split).params
        self._split, self._proposal = split, _shape_of_proposal(guide, params, rng_key)
        examples = params, split, datum, rng_key, self._proposal

        def run(
            params: Params,
            split: Sequence[jax.Array],
            datum: jax.Array,
            rng_key: jax.Array,
            proposal: GuideDraw,
        ) -> dict[str, jax.Array]:
            programs = programs_of(datum, split).replace(params=params)
            self.trace = _trace_model(rng_key, programs, proposal)
            check(self.trace, guide.trace)
            return log_joint(self.trace)

        self._traced, self._examples = PartialEvaluator(run, *examples), examples

    def for_one_element(self, cut: Cut, guide: TracedGuide) -> "TracedModel":
        """The model as a function of (parameters, element, key, proposal).

        :param cut: with the guide's indices.
        :param guide: cut down to one element.
        :raises NotElementwise: if an element of the log-densities needs others.
        """
        params, split, datum, rng_key, proposal = self._examples
        jaxpr, outputs = self._traced.jaxpr, self._traced.outputs
        number = len(jax.tree.leaves((params, split, datum, rng_key)))
        places = jax.tree.unflatten(jax.tree.structure(proposal), range(number, len(jaxpr.invars)))
        event_dims = dict(proposal.event_dims)
        axes = {
            place: cut.axis_of(proposal.values[name].ndim, event_dims[name])
            for name, place in places.values.items()
        }
        first = len(jax.tree.leaves(params))
        by_place = {**axes, **dict(enumerate(cut.split_axes, first))}
        sources = {jaxpr.invars[k]: Kind.VARYING for k in by_place}
        sources[jaxpr.invars[first + len(split) + 1]] = Kind.KEYED
        atoms = jax.tree.leaves(outputs)
        wanted = [(atom, cut.axis_of(atom.aval.ndim)) for atom in atoms]
        plan = OneElement(self._traced.closed, cut.size, wanted, sources)
        plan.require_axes(by_place)

        def run(*inputs: Any) -> dict[str, jax.Array]:
            *others, datum, rng_key, proposal = inputs
            estimate, element = cut.place(datum)
            whole = enumerate(jax.tree.leaves((*others, estimate, rng_key)))
            given: dict[Place, Any] = {(k, None): leaf for k, leaf in whole}
            for name, place in places.indices.items():
                given[place, None] = cut.indices[name][estimate]
            for name, place in places.values.items():
                given[place, axes[place]] = proposal.values[name]
            leaves = plan.evaluate(element, given)
            return dict(jax.tree.unflatten(jax.tree.structure(outputs), leaves))

        one = copy.copy(self)
        one._proposal = _shape_of_proposal(guide, params, rng_key)
        one._traced = PartialEvaluator(run, *self._examples[:-1], one._proposal)
        return one

    def log_probs(self, inputs: Any, detached: bool = False) -> dict[str, jax.Array]:
        """Scaled log-densities of all sites, not summed, in nats.

        :param inputs: parameters, datum, key and proposal.
        :param detached: no gradient flows to parameters and arguments, only to the proposal.
        """
        params, datum, rng_key, proposal = inputs
        others = params, self._split, datum, rng_key
        found: dict[str, jax.Array] = self._traced.evaluate(
            self._traced.outputs,
            (*(detach(others) if detached else others), proposal),
            detach_closure=detached,
        )
        return found


def log_weight(
    rng_key: jax.Array,
    programs: Programs,
    proposal: GuideDraw,
    data_dims: frozenset[int] = JOINT,
) -> jax.Array:
    r"""One log-weight :math:`\ell = \log p_\theta(x, z) - \log q_\phi(z \mid x)` of a proposed z.

    The model's log-densities are taken relative to the guide's scale: a scale that the two have in
    common is no part of the weight.

    :return: the log-weight in nats, shaped as the proposal's log-density.
    """
    log_probs = log_joint(_trace_model(rng_key, programs, proposal))
    return weight_of(log_probs, proposal, data_dims)


def _shape_of_proposal(guide: TracedGuide, params: Params, rng_key: jax.Array) -> GuideDraw:
    # Scaled, so that its scale is one number: the data plates are not known yet.
    inputs = params, jnp.zeros((), jnp.int32), rng_key
    shape: GuideDraw = jax.eval_shape(lambda: guide.propose(inputs, scaled=True))
    return shape


def _trace_model(rng_key: jax.Array, programs: Programs, proposal: GuideDraw) -> Trace:
    """The model's sites at a proposed draw."""
    model = replay(seed(programs.model, rng_key), proposal.messages())
    model = substitute(model, data=programs.params)
    sites: Trace = trace(model).get_trace(*programs.args, **programs.kwargs)
    return sites
