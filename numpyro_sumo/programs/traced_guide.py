"""A guide, traced once as a jaxpr.

From that one trace come its draws, its log-densities with or without the score, its scales and
subsamples, what depends on what, and one element of all of these: none runs the guide again.
"""

from collections.abc import Callable, Sequence
import copy
from functools import cached_property
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal
import jax.numpy as jnp

from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from .jaxprs import PartialEvaluator, detach, sources_of
from .log_weights import GuideDraw, log_prob_of, sum_to_data
from .one_element import Cut, OneElement
from .path_gradient import intermediates_at
from .programs import Programs
from .sites import JOINT, Params, Trace, is_transformed, latent_sites, random_sites, scales_of
from .varying import Kind

#: Maps a datum, an integer array, and the arrays that are split to the programs run for it.
ProgramsOf = Callable[[jax.Array, Sequence[jax.Array]], Programs]


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
    """

    values: dict[str, jax.Array]
    indices: dict[str, jax.Array]
    log_probs: dict[str, jax.Array]
    path_log_probs: dict[str, jax.Array]
    scales: dict[str, jax.Array]
    scale: jax.Array
    supports: dict[str, list[jax.Array]]


class _SeesControlFlow(Messenger):
    """Notes whether a program runs a scan or a cond."""

    seen = False

    def process_message(self, msg: dict[str, Any]) -> None:
        self.seen |= msg["type"] == "control_flow"


class TracedGuide:
    """A guide as a function of (parameters, datum, key), traced once.

    :param rng_key: any key.
    :param split: arrays that are split among the data, if any.
    """

    #: The guide's sites. Its arrays are abstract, and of no use outside.
    trace: Trace

    def __init__(
        self, programs_of: ProgramsOf, rng_key: jax.Array, split: Sequence[jax.Array] = ()
    ):
        datum = jnp.zeros((), jnp.int32)
        self._params, self._split = programs_of(datum, split).params, split
        examples = self._params, split, datum, rng_key

        def run(
            params: Params, split: Sequence[jax.Array], datum: jax.Array, rng_key: jax.Array
        ) -> _GuideOutputs:
            return self._run(programs_of(datum, split).replace(params=params), rng_key)

        self._whole = self._traced = PartialEvaluator(run, *examples)

    def _run(self, programs: Programs, rng_key: jax.Array) -> _GuideOutputs:
        guide = substitute(seed(programs.guide, rng_key), data=programs.params)
        control_flow = _SeesControlFlow(guide)
        self.trace = trace(control_flow).get_trace(*programs.args, **programs.kwargs)
        self._has_control_flow = control_flow.seen
        sites = {n: site for n, site in self.trace.items() if site["type"] == "sample"}
        log_probs = {n: log_prob_of(site, site["intermediates"]) for n, site in sites.items()}
        on_path = {
            n: log_prob_of(site, intermediates_at(site["fn"], site["value"], site["intermediates"]))
            for n, site in sites.items()
            if site["intermediates"] and is_transformed(site["fn"])
        }
        return _GuideOutputs(
            values={n: site["value"] for n, site in latent_sites(sites).items()},
            indices={n: s["value"] for n, s in self.trace.items() if s["type"] == "plate"},
            log_probs=log_probs,
            path_log_probs={**log_probs, **on_path},
            scales={n: jnp.asarray(scale) for n, scale in scales_of(sites).items()},
            scale=jnp.asarray(_common_scale(scales_of(sites)), jnp.result_type(float)),
            supports={n: jax.tree.leaves(s["fn"].support) for n, s in random_sites(sites).items()},
        )

    def for_one_element(self, cut: Cut, rng_key: jax.Array) -> tuple["TracedGuide", Cut]:
        """The guide as a function of (parameters, element, key), and the cut with its indices.

        :raises NotElementwise: if an element of the draws or of their density needs others.
        """
        jaxpr, outputs = self._traced.jaxpr, self._outputs
        estimates = jnp.arange(cut.num_estimates, dtype=jnp.int32)
        of_estimate = lambda i: self._evaluate(outputs.indices, (self._params, i, rng_key))
        cut = cut._replace(indices=jax.vmap(of_estimate)(estimates))
        wanted = outputs._replace(indices={}, supports={})
        by_array = lambda atom: cut.axis_of(atom.aval.ndim)
        axes = jax.tree.map(by_array, wanted)._replace(
            values={
                n: cut.axis_of(value.aval.ndim, self.trace[n]["fn"].event_dim)
                for n, value in outputs.values.items()
            }
        )
        is_none = lambda leaf: leaf is None
        atoms, axes = jax.tree.leaves(wanted), jax.tree.leaves(axes, is_leaf=is_none)
        first = len(jax.tree.leaves(self._params))
        split = jaxpr.invars[first : first + len(self._split)]
        *_, key = jaxpr.invars
        plates: dict[Any, str] = {
            a: n for n, a in outputs.indices.items() if not isinstance(a, Literal)
        }
        sources = {key: Kind.KEYED, **dict.fromkeys([*split], Kind.VARYING)}
        sources |= dict.fromkeys(plates, Kind.FIXED)
        plan = OneElement(self._traced.closed, cut.size, zip(atoms, axes), sources)
        plan.require_axes(dict(enumerate(cut.split_axes, first)))

        def run(*inputs: Any) -> _GuideOutputs:
            *others, datum, rng_key = inputs
            estimate, element = cut.place(datum)
            whole = enumerate(jax.tree.leaves((*others, estimate, rng_key)))
            known = {atom: cut.indices[name][estimate] for atom, name in plates.items()}
            leaves = plan.evaluate(element, {(k, None): leaf for k, leaf in whole}, known)
            found: _GuideOutputs = jax.tree.unflatten(jax.tree.structure(wanted), leaves)
            return found

        one = copy.copy(self)
        one._traced = PartialEvaluator(run, self._params, self._split, estimates[0], rng_key)
        return one, cut

    def propose(
        self,
        inputs: tuple[Params, jax.Array, jax.Array],
        data_dims: frozenset[int] = JOINT,
        *,
        score_free: bool = False,
        detach_args: bool = False,
        scaled: bool = False,
    ) -> GuideDraw:
        """A draw; see the function :func:`propose`.

        :param inputs: parameters, datum and key.
        :param detach_args: no gradient flows to the arguments.
        :param scaled: whether each site's log-density is scaled as in the program, and the
            proposal's scale is one.
        """
        outputs, log_probs = self._outputs, self._outputs.log_probs
        draws: dict[Any, jax.Array] = {}
        if score_free:
            variables = list(self._draws(self._traced).values())
            draws = dict(zip(variables, self._evaluate(variables, inputs, {}, detach_args)))
            inputs, detach_args, log_probs = detach(inputs), True, outputs.path_log_probs
        wanted = outputs.values, outputs.indices, log_probs, outputs.scale, outputs.scales
        found = self._evaluate(wanted, inputs, draws, detach_args)
        values, indices, log_probs, scale, scales = found
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
        return GuideDraw(values, indices, log_density, scale, event_dims)

    def _evaluate(
        self,
        outputs: Any,
        inputs: tuple[Params, jax.Array, jax.Array],
        known: dict[Any, jax.Array] | None = None,
        detach_args: bool = False,
    ) -> Any:
        params, datum, rng_key = inputs
        split = detach(self._split) if detach_args else self._split
        return self._traced.evaluate(outputs, (params, split, datum, rng_key), known, detach_args)

    @property
    def _outputs(self) -> _GuideOutputs:
        outputs: _GuideOutputs = self._traced.outputs
        return outputs

    def _draws(self, traced: PartialEvaluator) -> dict[str, Any]:
        """The variables of the random sites, by name."""
        names, values = random_sites(self.trace), traced.outputs.values
        return {name: values[name] for name in names if not isinstance(values[name], Literal)}

    @cached_property
    def dependences(self) -> tuple[dict[str, Dependence], dict[str, Dependence]]:
        """What sites that are not drawn depend on, and what the supports of those that are do."""
        jaxpr, outputs = self._whole.jaxpr, self._whole.outputs
        parameters = jaxpr.invars[: len(jax.tree.leaves(self._params))]
        sources: dict[Any, frozenset[Any]] = dict.fromkeys(parameters, frozenset([_PARAMETERS]))
        draws = self._draws(self._whole)
        sources |= {variable: frozenset([name]) for name, variable in draws.items()}

        def of_site(atoms: list[Any]) -> Dependence:
            union: frozenset[Any] = frozenset().union(*sources_of(jaxpr, atoms, sources))
            return Dependence(_PARAMETERS in union, union - {_PARAMETERS})

        computed = {
            name: of_site([*jax.tree.leaves(outputs.values.get(name)), log_prob])
            for name, log_prob in outputs.log_probs.items()
            if name not in outputs.supports
        }
        return computed, {name: of_site(atoms) for name, atoms in outputs.supports.items()}

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


def propose(
    rng_key: jax.Array,
    programs: Programs,
    data_dims: frozenset[int] = JOINT,
    score_free: bool = False,
) -> GuideDraw:
    r"""A draw z from the guide with :math:`\log q_\phi(z \mid x)`.

    :param data_dims: batch dimensions (negative) over which weights are kept apart.
    :param score_free: whether the log-density is differentiated through z alone.
    :return: the draw; its log-density is a scalar where there are no data plates.
    """
    guide = TracedGuide(lambda datum, split: programs, rng_key)
    inputs = programs.params, jnp.zeros((), jnp.int32), rng_key
    return guide.propose(inputs, data_dims, score_free=score_free)


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
