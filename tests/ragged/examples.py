"""Log-weights that the tests of this folder evaluate, ragged and one draw at a time."""

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro_sumo.ragged import Particle

KEY = random.key(3)


def params_for(scale):
    """A pytree of traced floats, and an integer, which has no gradient."""
    return {"nested": (scale, jnp.array([0.5, -1.0])), "count": jnp.array(3), "shift": 2.0 * scale}


def weigh(params, datum, key):
    """Two log-weights that depend on the parameters, on the datum and on the key."""
    scale, pair = params["nested"]
    noise = random.normal(key, (2,))
    vector = jnp.sin(scale * noise + datum) * pair + params["shift"]
    return vector * jnp.array([params["count"], jnp.sum(vector)])


def particle_of(weigh):
    """A particle whose only view is "model", from a function of (datum, key)."""
    return Particle(lambda datum, key, *_: weigh(datum, key))


def draw_key(datum, draw, key=KEY):
    """The key that the documentation promises to draw ``draw`` of a datum."""
    return random.fold_in(random.fold_in(key, datum), draw)


def evaluate_all(log_weight, num_data, num_draws, key=KEY):
    """Every draw of every datum by ``vmap``, from functions of (datum, key): the reference.

    :return: arrays of shape ``(num_draws, num_data, …)``.
    """
    draw = lambda datum, draw: log_weight(datum, draw_key(datum, draw, key))
    over_data = jax.vmap(draw, in_axes=(0, None))
    return jax.vmap(over_data, in_axes=(None, 0))(jnp.arange(num_data), jnp.arange(num_draws))


def scalar_particle(of_guide, of_model):
    """One log-weight: the proposal depends on ``of_guide``, ``weigh`` closes over ``of_model``."""

    def propose(datum, key):
        z = of_guide * random.normal(key, (2,)) + datum
        return {"guide": {"z": z, "index": datum, "log_density": -jnp.sum(z**2) + of_guide}}

    def weigh(datum, key, proposal, detached):
        scale = stop_gradient(of_model) if detached else of_model
        log_joint = jnp.sum(jnp.cos(scale * proposal["z"])) + scale * proposal["index"]
        return log_joint - 0.1 * proposal["log_density"]

    return Particle(weigh, propose)


def vector_particle(of_guide, of_model):
    """Two log-weights, each of which depends on both of two draws."""

    def propose(datum, key):
        z = of_guide * random.normal(key, (2,)) + datum
        return {"guide": {"z": z, "log_density": -(z**2)}}

    def weigh(datum, key, proposal, detached):
        scale = stop_gradient(of_model) if detached else of_model
        around_mean = proposal["z"] - jnp.mean(proposal["z"])
        return jnp.cos(scale * around_mean + datum) - 0.1 * proposal["log_density"]

    return Particle(weigh, propose)


def counted(evaluations, log_weight):
    """A function of (datum, key) that appends the datum to a list whenever it is evaluated."""

    def evaluate(datum, key):
        # The key is an argument so that vmap makes one call for every evaluation.
        note = lambda i, _: evaluations.append(int(i))
        jax.debug.callback(note, datum, random.key_data(key))
        return log_weight(datum, key)

    return evaluate
