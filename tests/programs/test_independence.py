"""Which programs are proven to compute each element of a batch by itself, with the same numbers."""

import numpy as np
import pytest

import jax
from jax import lax, random
from jax.extend.core import Var
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace

from numpyro_sumo.programs.abstract_jaxprs import Traced
from numpyro_sumo.programs.independence import why_not_elementwise, why_numbers_differ

#: As many elements as features and categories: axes cannot be told apart by their lengths.
SIZE = FEATURES = 4
FULL_SIZE = 12
ROWS = random.normal(random.key(0), (FULL_SIZE, FEATURES))
LABELS = jnp.arange(FULL_SIZE) % FEATURES
WEIGHTS = random.normal(random.key(1), (FEATURES, FEATURES))
SCALES = jnp.linspace(1.0, 2.0, FEATURES)


def trace_batch(function, inputs):
    """Traces a function that returns ``(known, outputs)``, two lists of pairs (pytree, axis).

    :param function: what it calls known are draws and indices: they are taken to vary along their
        axes, whatever they are computed from.
    :param inputs: arguments, each a pytree with the axis of elements that all its leaves share.
    """
    axes = []

    def flat(*args):
        known, outputs = (_leaves(pairs) for pairs in function(*args))
        axes.extend(axis for _, axis in [*known, *outputs])
        return [leaf for leaf, _ in known], [leaf for leaf, _ in outputs]

    closed, shape = jax.make_jaxpr(flat, return_shape=True)(*(tree for tree, _ in inputs))
    pairs = list(zip(closed.jaxpr.outvars, axes))
    known, outputs = pairs[: len(shape[0])], pairs[len(shape[0]) :]
    given = zip(closed.jaxpr.invars, (axis for _, axis in _leaves(inputs)))
    axis_of = {atom: axis for atom, axis in [*given, *known] if isinstance(atom, Var)}
    return Traced(closed.jaxpr, closed.consts, axis_of, outputs)


def _leaves(pairs):
    return [(leaf, axis) for tree, axis in pairs for leaf in jax.tree.leaves(tree)]


def verdict(traced_for):
    """Why a program is not proven to run for one element as for many, in words, or None."""
    whole, one = traced_for(SIZE), traced_for(1)
    return why_not_elementwise(whole, SIZE) or why_numbers_differ(whole, one, SIZE)


# Functions of rows x of the batch, shape (size, FEATURES), and of draws z, shape (size,)


def of_arrays(function):
    def traced_for(size):
        x, z = ROWS[:size], jnp.ones(size)
        return trace_batch(lambda x, z: ([], [(function(x, z), 0)]), [(x, 0), (z, 0)])

    return verdict(traced_for)


def perceptron(x, z):
    hidden = jax.nn.gelu(x @ WEIGHTS + SCALES)
    return z * jax.nn.softmax(hidden @ WEIGHTS.T)[:, 0]


def convolution(x, z):
    kernel = WEIGHTS[:2, None, :]
    dims = lax.conv_dimension_numbers(x[..., None].shape, kernel.shape, ("NHC", "HIO", "NHC"))
    out = lax.conv_general_dilated(x[..., None], kernel, (1,), "SAME", dimension_numbers=dims)
    pooled = lax.reduce_window(out, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    return pooled.reshape(len(x), -1).sum(-1) + z


def recurrent_network(x, z):
    def step(state, feature):
        state = jnp.tanh(state @ WEIGHTS + feature[:, None])
        return state, state[:, 0]

    state, outputs = lax.scan(step, jnp.zeros((len(x), FEATURES)), x.T)
    return state.sum(-1) + outputs.sum(0) * z


def fixed_number_of_steps(x, z):
    return lax.fori_loop(0, 5, lambda i, y: jnp.sin(y) + i, z)


def quadratic_forms(x, z):
    matrices = x[:, :, None] * x[:, None, :] + jnp.eye(FEATURES)
    roots = jnp.linalg.cholesky(matrices)
    solved = jax.scipy.linalg.solve_triangular(roots, x[..., None], lower=True)[..., 0]
    return (solved**2).sum(-1) + jnp.linalg.eigvalsh(matrices).min(-1) + z


def sorted_features(x, z):
    ordered = jnp.sort(x, axis=-1)[:, ::-1]
    largest, places = lax.top_k(x, 2)
    return jnp.cumsum(ordered, -1)[:, 1] + largest[:, 0] * places[:, 1] + jnp.roll(x, 1, -1)[:, 0]


PROVEN = {
    "arithmetic": lambda x, z: jnp.where(z > 0, x.sum(-1), -1.0) ** 2 / 7.0,
    "perceptron": perceptron,
    "convolution": convolution,
    "recurrent_network": recurrent_network,
    "fixed_number_of_steps": fixed_number_of_steps,
    "linear_algebra": quadratic_forms,
    "sorted_features": sorted_features,
    "mean_over_features": lambda x, z: x.mean(-1) * z,
    "layer_norm": lambda x, z: ((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True))[:, 0],
    "standardised_features": lambda x, z: jax.nn.standardize(x)[:, 0],
    "constant_for_each_element": lambda x, z: jnp.full(len(x), 3.0) + jnp.zeros_like(z),
    "result_that_is_constant": lambda x, z: jnp.full(len(x), 3.0),
    "scalar_result": lambda x, z: 3.0,
    "position_of_a_feature": lambda x, z: (x * jnp.arange(FEATURES)).sum(-1),
    "embedding_by_a_draw": lambda x, z: WEIGHTS[z.astype(int)].sum(-1),
    "feature_chosen_by_a_draw": lambda x, z: jnp.take_along_axis(x, z.astype(int)[:, None], 1)[
        :, 0
    ],
    "one_hot": lambda x, z: (jax.nn.one_hot(z.astype(int), FEATURES) * x).sum(-1),
    "traced_ones": lambda x, z: jax.jit(lambda z: z * np.ones(len(z), np.float32))(z),
    "pairs_of_features": lambda x, z: (x[:, :, None] - x[:, None, :]).max((1, 2)),
    "einsum": lambda x, z: jnp.einsum("ni,ij,nj->n", x, WEIGHTS, x),
    "vmap": lambda x, z: jax.vmap(lambda row, w: (WEIGHTS @ row).max() * w)(x, z),
    "vmap_of_cond": lambda x, z: jax.vmap(lambda w: lax.cond(w > 0, jnp.sin, jnp.cos, w))(z),
    "cond_on_a_constant": lambda x, z: lax.cond(SCALES[0] > 0, jnp.sin, jnp.cos, z),
    "remat": lambda x, z: jax.checkpoint(perceptron)(x, z),
    "gradient": lambda x, z: jax.grad(lambda x: perceptron(x, z).sum())(x).sum(-1),
    "special_functions": lambda x, z: (
        jax.scipy.special.gammaln(z) + jax.scipy.special.erfinv(z / 2) + jax.nn.log_sigmoid(z)
    ),
    "flattened_and_restored": lambda x, z: x.reshape(len(x), 2, 2).swapaxes(1, 2).sum((1, 2)),
    "outer_product": lambda x, z: jnp.outer(z, SCALES).prod(1),
}


@pytest.mark.parametrize("function", PROVEN.values(), ids=PROVEN.keys())
def test_functions_of_one_element_at_a_time_are_proven(function):
    assert of_arrays(function) is None
    x, z = ROWS[:SIZE], jnp.linspace(0.2, 1.2, SIZE)
    run = jax.jit(lambda x, z: jnp.broadcast_to(function(x, z), z.shape))
    apart = [run(x[i : i + 1], z[i : i + 1]) for i in range(SIZE)]
    np.testing.assert_allclose(run(x, z), jnp.concatenate(apart), rtol=1e-4, atol=1e-5)


BY_POSITION = "an array of the batch's length that is not indexed by the plate"
BY_LENGTH = "a number that depends on the batch's length"


def batch_norm(x, z):
    return ((x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5))[:, 0]


def loop_until_all_are_small(x, z):
    return lax.while_loop(lambda y: jnp.any(y > 1), lambda y: y / 2, z)


def scan_over_the_batch(x, z):
    return lax.scan(lambda total, w: (total + w, total), 0.0, z)[1]


def carry_that_is_added_up(x, z):
    return z + lax.fori_loop(0, 3, lambda i, total: total + x.sum(), 0.0)


def callback(x, z):
    return jax.pure_callback(lambda z: z, jax.ShapeDtypeStruct(z.shape, z.dtype), z)


def window(x, z):
    """The elements from the second on, and the first in place of the last."""
    numbers = lax.GatherDimensionNumbers((0,), (), (0,))
    rest = lax.gather(z, jnp.array([min(1, len(z) - 1)]), numbers, (max(len(z) - 1, 1),))
    return jnp.concatenate([rest, x[: len(z) - len(rest), 0]])


def clamped_slice(x, z):
    grows = jnp.cumprod(jnp.full(len(x), 2.0))
    return z + lax.dynamic_slice(grows, (6,), (1,))[0]


REFUSED = {
    "matrix_or_its_transpose": (
        lambda x, z: (x @ (WEIGHTS.T if len(x) > 1 else WEIGHTS))[:, 0],
        BY_LENGTH,
    ),
    "contraction_or_another": (
        lambda x, z: jnp.einsum("ni,ij->nj" if len(x) > 1 else "ni,ji->nj", x, WEIGHTS)[:, 0],
        BY_LENGTH,
    ),
    "place_in_an_array_of_equal_entries": (
        lambda x, z: z + jnp.searchsorted(jnp.ones(len(x)), 5.0),
        BY_LENGTH,
    ),
    "clamped_slice": (clamped_slice, BY_LENGTH),
    "cumulative_sum_of_ones": (lambda x, z: z + jnp.cumsum(jnp.ones(len(x)))[-1], BY_LENGTH),
    "features_or_others": (
        lambda x, z: (WEIGHTS[:3, :2].reshape(2, 3) if len(x) > 1 else WEIGHTS[:3, :2])[0, 1] + z,
        BY_LENGTH,
    ),
    "batch_mean": (lambda x, z: x.mean(0)[0] + z, "reduce_sum across the elements"),
    "batch_norm": (batch_norm, "reduce_sum across the elements"),
    "softmax_over_the_batch": (lambda x, z: jax.nn.softmax(z), "reduce_max across the elements"),
    "argmax": (lambda x, z: z + jnp.argmax(z), "argmax across the elements"),
    "cumsum": (lambda x, z: jnp.cumsum(z), "cumsum across the elements"),
    "sort": (lambda x, z: jnp.sort(z), "sort across the elements"),
    "top_k": (lambda x, z: z + lax.top_k(z, 1)[0], "top_k across the elements"),
    "the_first_element": (lambda x, z: z - z[0], "slice across the elements"),
    "an_element_by_its_number": (lambda x, z: z - z[SCALES.argmax()], "across the elements"),
    "a_window_of_elements": (window, "gather across the elements"),
    "neighbours": (lambda x, z: jnp.roll(z, 1), "slice across the elements"),
    "flip": (lambda x, z: jnp.flip(z), "rev across the elements"),
    "gram_matrix": (lambda x, z: (x @ x.T).sum(-1), "dot_general of elements along two axes"),
    "contraction": (lambda x, z: (z @ x)[0] + z, "dot_general across the elements"),
    "pairs": (lambda x, z: (z[:, None] - z[None, :]).max(1), "sub of elements along two axes"),
    "broadcast_along_features": (lambda x, z: (x + z).sum(-1), "add of elements along two axes"),
    "convolved_batch": (
        lambda x, z: jnp.convolve(z, SCALES, "same"),
        "conv_general_dilated across the elements",
    ),
    "flattened": (lambda x, z: jnp.sort(x.reshape(-1))[: len(x)], "reshape across the elements"),
    "scan_over_the_batch": (scan_over_the_batch, "scan across the elements"),
    "loop_until_all_are_small": (loop_until_all_are_small, "reduce_or across the elements"),
    "carry_that_is_added_up": (carry_that_is_added_up, "reduce_sum across the elements"),
    "scatter": (lambda x, z: z.at[0].set(0.0), "the primitive 'scatter' is not known"),
    "callback": (callback, "the primitive 'pure_callback' is not known"),
    "result_along_another_axis": (lambda x, z: x.T, "elements along another axis"),
    "position": (lambda x, z: z * jnp.arange(len(z)), BY_POSITION),
    "position_as_the_result": (lambda x, z: jnp.arange(len(z)), BY_POSITION),
    "constant_array": (lambda x, z: z + SCALES[: len(z)], BY_POSITION),
    "position_as_an_index": (lambda x, z: z + ROWS[jnp.arange(len(z)), 0], BY_POSITION),
    "constant_row_for_each_element": (
        lambda x, z: jnp.einsum("ni,ni->n", x, WEIGHTS[: len(x)]),
        BY_POSITION,
    ),
    "constant_row_with_an_index": (
        lambda x, z: jnp.take_along_axis(WEIGHTS[: len(x)], z.astype(int)[:, None], 1)[:, 0],
        BY_POSITION,
    ),
    "position_as_a_feature": (
        lambda x, z: jnp.concatenate([x, jnp.arange(float(len(x)))[:, None]], 1).sum(1),
        BY_POSITION,
    ),
    "mask_of_the_first": (lambda x, z: jnp.where(jnp.arange(len(z)) == 0, 0.0, z), BY_POSITION),
    "noise_for_each_element": (
        lambda x, z: z + random.normal(random.key(0), z.shape),
        BY_POSITION,
    ),
    "position_in_a_branch": (
        lambda x, z: (
            lax.cond(SCALES[0] > 0, lambda z: z, lambda z: SCALES, z) if len(z) == SIZE else z
        ),
        BY_POSITION,
    ),
    "divided_by_the_length": (lambda x, z: z / len(z), BY_LENGTH),
    "scaled_by_the_length": (lambda x, z: z * x.shape[0], BY_LENGTH),
    "length_of_one_has_another_use": (lambda x, z: (z * 4.0 + 1.0) / len(z), BY_LENGTH),
    "integer_length": (lambda x, z: WEIGHTS[len(z) - 1, z.astype(int)], BY_LENGTH),
    "length_as_a_sum_of_ones": (lambda x, z: z * jnp.ones(len(z)).sum(), BY_LENGTH),
    "length_as_a_contraction": (lambda x, z: z * (jnp.ones(len(z)) @ jnp.ones(len(z))), BY_LENGTH),
    "length_as_a_repetition": (
        lambda x, z: jnp.broadcast_to(z[:, None], (len(z), len(z))).sum(1),
        BY_LENGTH,
    ),
    "length_in_a_loop": (
        lambda x, z: lax.fori_loop(0, 3, lambda i, y: y / len(z), z),
        BY_LENGTH,
    ),
    "steps_as_many_as_elements": (
        lambda x, z: lax.fori_loop(0, len(z), lambda i, y: jnp.sin(y), z),
        BY_LENGTH,
    ),
    "another_formula_for_one": (
        lambda x, z: jnp.sin(z) if len(z) == 1 else jnp.cos(z),
        BY_LENGTH,
    ),
    "the_weights_of_as_many": (lambda x, z: z * SCALES[: len(z)].max(), BY_LENGTH),
}


@pytest.mark.parametrize("function, why", REFUSED.values(), ids=REFUSED.keys())
def test_functions_of_other_elements_or_of_their_number_are_refused(function, why):
    assert why in of_arrays(function)


# NumPyro programs: log-densities of all sites, with draws and indices as known variables


def of_program(program, params=None):
    def traced_for(size):
        def densities(params):
            handled = substitute(seed(program, random.key(0)), data=params)
            sites = trace(handled).get_trace(size)
            plates = [site["value"] for site in sites.values() if site["type"] == "plate"]
            sampled = [site for site in sites.values() if site["type"] == "sample"]
            draws = [source_of(site) for site in sampled if not site["is_observed"]]
            log_probs = [log_prob_of(site) for site in sampled]
            return [(plates, 0), (draws, 0)], [(log_probs, 0)]

        return trace_batch(densities, [(params or {}, None)])

    return verdict(traced_for)


def source_of(site):
    """What a site draws: of a transformed distribution, whose transform may mix, the base draw."""
    return site["intermediates"][0][0] if site["intermediates"] else site["value"]


def log_prob_of(site):
    if site["intermediates"]:
        return site["fn"].log_prob(site["value"], site["intermediates"])
    return site["fn"].log_prob(site["value"])


def plate(size):
    return numpyro.plate("data", FULL_SIZE, subsample_size=size)


def normal(size):
    with plate(size):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.5), 1.0))
        numpyro.sample("x", dist.Normal(z, 2.0), obs=numpyro.subsample(ROWS[:, 0], event_dim=0))


def indexed(size):
    with plate(size) as index:
        z = numpyro.sample("z", dist.Laplace(ROWS[index, 1], 1.0))
        numpyro.sample("x", dist.Bernoulli(logits=z), obs=LABELS[index] % 2)


def categorical(size):
    with plate(size) as index:
        z = numpyro.sample("z", dist.Dirichlet(jnp.exp(ROWS[index])))
        numpyro.sample("x", dist.Categorical(z), obs=LABELS[index])
        numpyro.sample("y", dist.Categorical(logits=ROWS[index]), obs=LABELS[index])
        numpyro.sample("c", dist.Multinomial(3, z), obs=jnp.eye(FEATURES)[LABELS[index]] * 3)


def multivariate(size):
    with plate(size):
        x = numpyro.subsample(ROWS, event_dim=1)
        cov = WEIGHTS @ WEIGHTS.T + jnp.eye(FEATURES)
        z = numpyro.sample("z", dist.MultivariateNormal(x @ WEIGHTS, cov))
        numpyro.sample("w", dist.LowRankMultivariateNormal(z, WEIGHTS[:, :2], SCALES))
        tril = jnp.eye(FEATURES) * jnp.exp(z)[..., None]
        numpyro.sample("x", dist.MultivariateNormal(z, scale_tril=tril), obs=x)


def mixture(size):
    with plate(size):
        x = numpyro.subsample(ROWS, event_dim=1)
        z = numpyro.sample("z", dist.Normal(0.0, SCALES).to_event(1))
        parts = dist.Normal(z, SCALES)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=z), parts), obs=x[:, 0])


def positive(size):
    with plate(size) as index:
        a = numpyro.sample("a", dist.LogNormal(ROWS[index, 0], 1.0))
        b = numpyro.sample("b", dist.Gamma(a, 2.0))
        c = numpyro.sample("c", dist.Beta(a, b))
        numpyro.sample("x", dist.StudentT(3.0, a, b), obs=c)
        numpyro.sample("n", dist.NegativeBinomial2(a, b), obs=LABELS[index])
        numpyro.sample("p", dist.ZeroInflatedPoisson(c, a), obs=LABELS[index])
        numpyro.sample("t", dist.TruncatedNormal(a, b, low=0.0), obs=a)


def flow(size):
    with plate(size) as index:
        shift = dist.transforms.AffineTransform(ROWS[index, 0], 2.0)
        transforms = [dist.transforms.SigmoidTransform(), shift]
        numpyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), transforms))


def autoregressive_flow(size):
    with plate(size):
        spline = dist.transforms.LowerCholeskyAffine(SCALES, jnp.tril(WEIGHTS) + jnp.eye(FEATURES))
        base = dist.Normal(jnp.zeros(FEATURES), 1.0).to_event(1)
        numpyro.sample("z", dist.TransformedDistribution(base, spline))


def local_parameters(size):
    with plate(size):
        loc = numpyro.param("loc", jnp.zeros((FULL_SIZE, FEATURES)), event_dim=1)
        spread = numpyro.param("spread", jnp.ones(FULL_SIZE), event_dim=0)
        numpyro.sample("z", dist.Normal(loc, spread[:, None]).to_event(1))


def flax_encoder(size):
    from flax import linen

    net = linen.Sequential([linen.Dense(8), linen.relu, linen.LayerNorm(), linen.Dense(2)])
    encode = flax_module("encoder", net, input_shape=(1, FEATURES))
    embed = flax_module("embedding", linen.Embed(FEATURES, 2), inputs=jnp.zeros(1, int))
    with plate(size) as index:
        out = encode(numpyro.subsample(ROWS, event_dim=1)) + embed(LABELS[index])
        numpyro.sample("z", dist.Normal(out[..., 0], jnp.exp(out[..., 1])))


def flax_images(size):
    from flax import linen

    net = linen.Sequential([linen.Conv(3, (2, 2)), linen.swish, linen.Conv(2, (3, 3))])
    encode = flax_module("encoder", net, input_shape=(1, 2, 2, 1))
    with plate(size):
        images = numpyro.subsample(ROWS, event_dim=1).reshape(-1, 2, 2, 1)
        pooled = linen.avg_pool(encode(images), (2, 2)).reshape(len(images), -1)
        numpyro.sample("z", dist.Normal(pooled, 1.0).to_event(1))


def nested_plates(size):
    with numpyro.plate("rows", FULL_SIZE, subsample_size=size, dim=-2) as index:
        batch = numpyro.subsample(ROWS, event_dim=0)
        with numpyro.handlers.mask(mask=batch > 0):
            numpyro.sample("x", dist.Normal(ROWS[index, :1], 1.0).expand([size, 1]), obs=batch)


def likelihood_by_factor(size):
    with plate(size):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.factor("x", -(z**2))


PROGRAMS = [
    normal,
    indexed,
    categorical,
    multivariate,
    mixture,
    positive,
    flow,
    autoregressive_flow,
    local_parameters,
    flax_encoder,
    flax_images,
    nested_plates,
    likelihood_by_factor,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_subsampled_programs_are_proven(program):
    assert of_program(program) is None


def centred(size):
    with plate(size):
        x = numpyro.subsample(ROWS[:, 0], event_dim=0)
        numpyro.sample("z", dist.Normal(x - x.mean(), 1.0))


def batch_normalised(size):
    from flax import linen

    net = linen.BatchNorm(use_running_average=False)
    with plate(size):
        x = numpyro.subsample(ROWS, event_dim=1)
        normalised, _ = net.init_with_output(random.key(0), x)
        numpyro.sample("z", dist.Normal(normalised[:, 0], 1.0))


def averaged(size):
    with plate(size) as index:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z / len(index), 1.0), obs=ROWS[index, 0])


def draws_that_see_each_other(size):
    with plate(size) as index:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(jnp.cumsum(z), 1.0), obs=ROWS[index, 0])


def data_in_their_order(size):
    with plate(size):
        numpyro.sample("x", dist.Normal(0.0, 1.0), obs=ROWS[:size, 0])


def shifted_by_the_mean(size):
    """The density of a base draw does not show the shift."""
    with plate(size) as index:
        x = numpyro.subsample(ROWS[:, 0], event_dim=0)
        shift = dist.transforms.AffineTransform(x.mean(), 2.0)
        z = numpyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), shift))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=ROWS[index, 1])


MIXING_PROGRAMS = {
    shifted_by_the_mean: "reduce_sum across the elements",
    centred: "reduce_sum across the elements",
    batch_normalised: "reduce_sum across the elements",
    averaged: BY_LENGTH,
    draws_that_see_each_other: "cumsum across the elements",
    data_in_their_order: BY_POSITION,
}


@pytest.mark.parametrize(
    "program, why", MIXING_PROGRAMS.items(), ids=[p.__name__ for p in MIXING_PROGRAMS]
)
def test_programs_whose_elements_see_each_other_are_refused(program, why):
    assert of_program(program) == why


def test_what_only_feeds_known_variables_does_not_matter():
    def function(x):
        draw = jnp.sort(x.sum(-1)) + random.normal(random.key(0), (len(x),))
        unused = jnp.cumsum(x, 0)
        del unused
        return [(draw, 0)], [(draw**2, 0)]

    whole, one = (trace_batch(function, [(ROWS[:size], 0)]) for size in (SIZE, 1))
    assert why_not_elementwise(whole, SIZE) is None
    assert why_numbers_differ(whole, one, SIZE) is None


def test_a_result_without_elements_may_not_depend_on_them():
    traced = trace_batch(lambda x: ([], [(x, None)]), [(ROWS[:SIZE], 0)])
    assert why_not_elementwise(traced, SIZE) == "elements along another axis"


def test_constants_that_are_traced_are_compared_by_identity():
    @jax.jit
    def traced(rows):
        function = lambda z: ([], [(z + rows.sum(), 0)])
        whole, one = (trace_batch(function, [(jnp.ones(size), 0)]) for size in (SIZE, 1))
        assert why_not_elementwise(whole, SIZE) is None
        assert why_numbers_differ(whole, one, SIZE) is None
        return rows

    traced(ROWS)
