"""One element computed by itself: the same numbers as in the batch, or the reason why not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import jax
from jax import lax, random
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.handlers import block, seed, substitute, trace

from numpyro_sumo.programs.cut_control_flow import NotElementwise
from numpyro_sumo.programs.one_element import OneElement
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.varying import Kind
from tests.helpers.weights import weights_of_programs

#: As many elements as features and categories: axes cannot be told apart by their lengths.
SIZE = FEATURES = 4
FULL_SIZE = 12
ROWS = random.normal(random.key(0), (FULL_SIZE, FEATURES))
LABELS = jnp.arange(FULL_SIZE) % FEATURES
WEIGHTS = random.normal(random.key(1), (FEATURES, FEATURES))
SCALES = jnp.linspace(1.0, 2.0, FEATURES)


# Functions of rows x of the batch, shape (size, FEATURES), and of draws z, shape (size,)


def plan_of(function, x, z, varying=("x", "z")):
    """The plan for one element of a function of arrays of which some vary."""
    closed = jax.make_jaxpr(function)(x, z)
    named = dict(zip(["x", "z"], closed.jaxpr.invars))
    sources = {named[name]: Kind.VARYING for name in varying}
    (result,) = closed.jaxpr.outvars
    plan = OneElement(closed, SIZE, [(result, 0 if result.aval.shape else None)], sources)
    plan.require_axes({0: 0, 1: 0} if "x" in varying else {1: 0})
    return plan


def why_not(function, varying=("x", "z")):
    with pytest.raises(NotElementwise) as refusal:
        plan_of(function, ROWS[:SIZE], jnp.linspace(0.2, 1.2, SIZE), varying)
    return str(refusal.value)


def assert_elements_are_those_of_the_batch(function, varying):
    x, z = ROWS[:SIZE], jnp.linspace(0.2, 1.2, SIZE)
    plan = plan_of(function, x, z, varying)

    def one(i, x, z):
        cut = lambda array: lax.dynamic_index_in_dim(array, i)
        inputs = {(0, 0): cut(x), (1, 0): cut(z)}
        if "x" not in varying:
            inputs |= {(0, None): x}
        return jnp.ravel(plan.evaluate(i, inputs)[0])[0] + 0.0 * z[0]

    def whole(i, x, z):
        return jnp.broadcast_to(function(x, z), z.shape)[i] + 0.0 * z[0]

    def both(i):
        return [jax.value_and_grad(each, (1, 2))(i, x, z) for each in (one, whole)]

    found, expected = jax.jit(jax.vmap(both))(jnp.arange(SIZE))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


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


def contraction_or_another(x, z):
    return jnp.einsum("ni,ij->nj" if len(x) > 1 else "ni,ji->nj", x, WEIGHTS)[:, 0]


def features_or_others(x, z):
    return (WEIGHTS[:3, :2].reshape(2, 3) if len(x) > 1 else WEIGHTS[:3, :2])[0, 1] + z


def row_and_an_index(x, z):
    return jnp.take_along_axis(WEIGHTS[: len(x)], z.astype(int)[:, None], 1)[:, 0]


def position_as_a_feature(x, z):
    return jnp.concatenate([x, jnp.arange(float(len(x)))[:, None]], 1).sum(1)


@jax.custom_jvp
def halved_gradient(z, x, factor):
    return factor * z * x


@halved_gradient.defjvp
def _halved_gradient_jvp(primals, tangents):
    z, x, factor = primals
    of_z, of_x, _ = tangents
    return halved_gradient(z, x, factor), 0.5 * factor * (of_z * x + of_x * z)


ELEMENTWISE = {
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
    "scatter_into_a_feature": lambda x, z: x.at[:, 1].set(z).at[:, 0].add(2.0 * z).prod(1),
    "scatter_by_a_draw": lambda x, z: jax.vmap(lambda row, w: row.at[w.astype(int)].set(w))(
        x, z
    ).sum(1),
    "optimization_barrier": lambda x, z: sum(lax.optimization_barrier((x[:, 0], z))),
    "outer_product": lambda x, z: jnp.outer(z, SCALES).prod(1),
    # By position in the batch, or by its length: the numbers are those of the whole batch.
    "matrix_or_its_transpose": lambda x, z: (x @ (WEIGHTS.T if len(x) > 1 else WEIGHTS))[:, 0],
    "contraction_or_another": contraction_or_another,
    "place_in_an_array_of_equal_entries": lambda x, z: z + jnp.searchsorted(jnp.ones(len(x)), 5.0),
    "clamped_slice": clamped_slice,
    "cumulative_sum_of_ones": lambda x, z: z + jnp.cumsum(jnp.ones(len(x)))[-1],
    "features_or_others": features_or_others,
    "position": lambda x, z: z * jnp.arange(len(z)),
    "position_as_the_result": lambda x, z: jnp.arange(len(z)),
    "constant_array": lambda x, z: z + SCALES[: len(z)],
    "position_as_an_index": lambda x, z: z + ROWS[jnp.arange(len(z)), 0],
    "constant_row_for_each_element": lambda x, z: jnp.einsum("ni,ni->n", x, WEIGHTS[: len(x)]),
    "constant_row_with_an_index": row_and_an_index,
    "position_as_a_feature": position_as_a_feature,
    "mask_of_the_first": lambda x, z: jnp.where(jnp.arange(len(z)) == 0, 0.0, z),
    "position_in_a_branch": lambda x, z: (
        lax.cond(SCALES[0] > 0, lambda z: z, lambda z: SCALES, z) if len(z) == SIZE else z
    ),
    "divided_by_the_length": lambda x, z: z / len(z),
    "scaled_by_the_length": lambda x, z: z * x.shape[0],
    "length_of_one_has_another_use": lambda x, z: (z * 4.0 + 1.0) / len(z),
    "integer_length": lambda x, z: WEIGHTS[len(z) - 1, z.astype(int)],
    "length_as_a_sum_of_ones": lambda x, z: z * jnp.ones(len(z)).sum(),
    "length_as_a_contraction": lambda x, z: z * (jnp.ones(len(z)) @ jnp.ones(len(z))),
    "length_as_a_repetition": lambda x, z: jnp.broadcast_to(z[:, None], (len(z), len(z))).sum(1),
    "length_in_a_loop": lambda x, z: lax.fori_loop(0, 3, lambda i, y: y / len(z), z),
    "steps_as_many_as_elements": lambda x, z: lax.fori_loop(0, len(z), lambda i, y: jnp.sin(y), z),
    "another_formula_for_one": lambda x, z: jnp.sin(z) if len(z) == 1 else jnp.cos(z),
    "the_weights_of_as_many": lambda x, z: z * SCALES[: len(z)].max(),
    "noise_by_a_fixed_key": lambda x, z: z + random.normal(random.key(0), z.shape),
    "custom_rule": lambda x, z: halved_gradient(z, x[:, 0], 2.0),
    "custom_rule_that_calls_itself": lambda x, z: jnp.logaddexp(z, x[:, 0]),
}


@pytest.mark.parametrize("function", ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
def test_an_element_by_itself_has_the_value_and_gradient_that_it_has_in_the_batch(function):
    assert_elements_are_those_of_the_batch(function, ("x", "z"))


OF_DATA = """
    perceptron convolution recurrent_network linear_algebra sorted_features custom_rule remat
    vmap_of_cond embedding_by_a_draw feature_chosen_by_a_draw steps_as_many_as_elements einsum
""".split()


@pytest.mark.parametrize("name", OF_DATA)
def test_data_that_do_not_vary_are_cut_at_the_element(name):
    assert_elements_are_those_of_the_batch(ELEMENTWISE[name], ("z",))


# Functions in which element i needs others, and why that is refused
LOOKING_ACROSS = {
    "batch_mean": (lambda x, z: x.mean(0)[0] + z, "slice across the elements"),
    "batch_norm": (batch_norm, "div across the elements"),
    "softmax_over_the_batch": (lambda x, z: jax.nn.softmax(z), "reduce_sum across the elements"),
    "argmax": (lambda x, z: z + jnp.argmax(z), "argmax across the elements"),
    "cumsum": (lambda x, z: jnp.cumsum(z), "cumsum across the elements"),
    "sort": (lambda x, z: jnp.sort(z), "sort across the elements"),
    "top_k": (lambda x, z: z + lax.top_k(z, 1)[0], "top_k across the elements"),
    "the_first_element": (lambda x, z: z - z[0], "slice across the elements"),
    "an_element_by_its_number": (
        lambda x, z: z - z[SCALES.argmax()],
        "dynamic_slice across the elements",
    ),
    "a_window_of_elements": (window, "concatenate across the elements"),
    "neighbours": (lambda x, z: jnp.roll(z, 1), "concatenate across the elements"),
    "flip": (lambda x, z: jnp.flip(z), "rev across the elements"),
    "gram_matrix": (lambda x, z: (x @ x.T).sum(-1), "dot_general across the elements"),
    "contraction": (lambda x, z: (z @ x)[0] + z, "slice across the elements"),
    "pairs": (lambda x, z: (z[:, None] - z[None, :]).max(1), "sub across the elements"),
    "broadcast_along_features": (lambda x, z: (x + z).sum(-1), "add across the elements"),
    "convolved_batch": (
        lambda x, z: jnp.convolve(z, SCALES, "same"),
        "conv_general_dilated across the elements",
    ),
    "flattened": (lambda x, z: jnp.sort(x.reshape(-1))[: len(x)], "slice across the elements"),
    "scan_over_the_batch": (scan_over_the_batch, "scan across the elements"),
    "loop_until_all_are_small": (loop_until_all_are_small, "reduce_or across the elements"),
    "carry_that_is_added_up": (carry_that_is_added_up, "scan across the elements"),
    "scatter": (lambda x, z: z.at[0].set(0.0), "scatter across the elements"),
    "scatter_of_draws": (
        lambda x, z: x.at[:, z.astype(int)].set(1.0).sum(1),
        "scatter across the elements",
    ),
    "draws_of_a_key": (
        lambda x, z: z + random.normal(random.key(z[0].astype(int)), ()),
        "slice across the elements",
    ),
    "callback": (callback, "the primitive 'pure_callback' is not known"),
    "result_along_another_axis": (lambda x, z: x.T, "elements along another axis"),
}


@pytest.mark.parametrize("function, why", LOOKING_ACROSS.values(), ids=LOOKING_ACROSS.keys())
def test_functions_of_other_elements_are_refused(function, why):
    assert why_not(function) == why


OF_THE_DATA = ["batch_mean", "batch_norm", "gram_matrix", "flattened", "carry_that_is_added_up"]


@pytest.mark.parametrize("name", OF_THE_DATA)
def test_functions_of_all_data_are_not_for_data_do_not_vary(name):
    assert_elements_are_those_of_the_batch(LOOKING_ACROSS[name][0], ("z",))


# NumPyro programs


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
        numpyro.sample("z", dist.Normal(0.0, 1.0).expand([1, 2]))
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


#: A whole plate has the same operations as a subsampled one, except where an index is used.
IN_A_WHOLE_PLATE = [normal, indexed, multivariate, local_parameters, flax_encoder, nested_plates]
SUBSAMPLED_AND_WHOLE = [
    *(pytest.param(program, SIZE, id=f"{program.__name__}-subsampled") for program in PROGRAMS),
    *(pytest.param(p, FULL_SIZE, id=f"{p.__name__}-whole") for p in IN_A_WHOLE_PLATE),
]
every_size = pytest.mark.parametrize("size", [SIZE, FULL_SIZE], ids=["subsampled", "whole"])


def without_data(program):
    return block(program, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])


def weights_of(model, guide, size, **options):
    programs = Programs(model, guide, first_params(model, guide, size), (size,))
    return weights_of_programs(programs, **options)


@partial(jax.jit, static_argnums=(0, 1, 2))
def first_params(model, guide, size):
    params = {}
    for each in (guide, model):
        sites = trace(substitute(seed(each, random.key(0)), data=params)).get_trace(size)
        params |= {n: site["value"] for n, site in sites.items() if site["type"] == "param"}
    return params


@pytest.mark.parametrize("program, size", SUBSAMPLED_AND_WHOLE)
def test_an_element_of_a_program_weighs_what_it_weighs_in_the_whole(program, size):
    """At one and the same draw: weights of the model, and densities of the guide."""
    guide = without_data(program)
    whole = weights_of(program, guide, size, apart=False)
    apart = weights_of(program, guide, size)
    assert apart.elements.why_shared is None
    assert (whole.num_data, apart.num_data) == (1, size)
    guide_by_itself = weights_of(guide, guide, size)
    dim = apart.elements.dim

    def of_element(together, i):
        event_dims = dict(together.event_dims)
        cut = lambda array, n=0: lax.dynamic_index_in_dim(array, i, array.ndim - n + dim)
        values = {n: cut(value, event_dims[n]) for n, value in together.values.items()}
        own = apart.propose(i, random.key(1))
        here = replace(own, values=values, log_density=cut(together.log_density))
        return apart.weigh(i, random.key(2), here), guide_by_itself.weigh(i, random.key(2), own)

    @jax.jit
    def together_and_apart():
        together = whole.propose(jnp.array(0), random.key(1))
        expected = whole.weigh(jnp.array(0), random.key(2), together)
        elements = jnp.arange(size, dtype=jnp.int32)
        return expected, *lax.map(partial(of_element, together), elements)

    expected, found, of_guide = together_and_apart()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_guide, np.zeros_like(of_guide), atol=2e-4)


def draws_that_see_each_other(size):
    with plate(size) as index:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(jnp.cumsum(z), 1.0), obs=ROWS[index, 0])


def draws_that_are_shifted_by_their_mean(size):
    with plate(size) as index:
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        shift = dist.transforms.AffineTransform(u.mean(), 2.0)
        z = numpyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), shift))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=ROWS[index, 1])


MIXING_PROGRAMS = {
    draws_that_see_each_other: "the model has cumsum across the elements",
    draws_that_are_shifted_by_their_mean: "the guide has reduce_sum across the elements",
}


@pytest.mark.parametrize(
    "program, why", MIXING_PROGRAMS.items(), ids=[p.__name__ for p in MIXING_PROGRAMS]
)
@every_size
def test_programs_whose_elements_see_each_other_are_run_as_they_are_and_say_why(program, why, size):
    weights = weights_of(program, without_data(program), size)
    assert weights.num_data == 1
    expected = f"the {size} elements of plate 'data' share one: {why}"
    assert weights.elements.why_shared == expected


def test_random_numbers_of_an_element_are_its_own():
    """The key of a draw is another for each element: the first number of each is its own."""
    closed = jax.make_jaxpr(lambda key: random.normal(key, (SIZE,)))(random.key(0))
    kinds = {closed.jaxpr.invars[0]: Kind.KEYED}
    plan = OneElement(closed, SIZE, [(closed.jaxpr.outvars[0], 0)], kinds)
    one = lambda key: plan.evaluate(jnp.array(2), {(0, None): key})[0]
    np.testing.assert_array_equal(one(random.key(3)), random.normal(random.key(3), (1,)))


def test_random_numbers_that_are_used_along_two_axes_are_refused():
    def function(key):
        noise = random.normal(key, (SIZE, SIZE))
        return noise[:, 0] + noise[0]

    closed = jax.make_jaxpr(function)(random.key(0))
    kinds = {closed.jaxpr.invars[0]: Kind.KEYED}
    with pytest.raises(NotElementwise, match="across the elements|along two axes"):
        OneElement(closed, SIZE, [(closed.jaxpr.outvars[0], 0)], kinds)
