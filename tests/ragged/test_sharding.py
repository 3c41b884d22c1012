"""Chunks split over devices: the same numbers, a part of the work for each."""

from functools import partial
import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import numpy as np
import pytest

import jax
from jax import random
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO
from tests.helpers.models import plated_problem

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, os, sys
import jax
if len(sys.argv) > 1:
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax import random
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpyro_sumo import SUMO, MultilevelSUMO
from tests.helpers.models import linear_gaussian_problem, plated_problem

assert len(jax.devices()) == 4
mesh = jax.make_mesh((4,), ("draws",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("draws"))
datum = plated_problem(6)
CASES = {
    "sumo": (lambda **o: SUMO(64, **o), linear_gaussian_problem(3)),
    "sumo_by_datum": (lambda **o: SUMO(2, data_axes=0, **o), datum),
    "multilevel": (lambda **o: MultilevelSUMO(2, data_axes=0, **o), datum),
}
found = {}
for name in CASES if len(sys.argv) == 1 else ["sumo_by_datum"]:
    make, problem = CASES[name]
    ways = {"one": {}, "four": {"sharding": sharding}}
    if sys.argv[2:] == ["1"]:
        del ways["one"]  # the other process has it
    for devices, options in ways.items():
        loss = make(**options)
        of_params = lambda p, key: loss.loss(key, p, problem.model, problem.guide, *problem.args)
        run = jax.jit(jax.value_and_grad(of_params)).lower(problem.params, random.key(5)).compile()
        values = [run(problem.params, random.key(seed)) for seed in (5, 6, 7)]
        numbers = [float(leaf.sum()) for leaf in jax.tree.leaves(values)]
        flops = run.cost_analysis()["flops"]
        found.setdefault(name, {})[devices] = {"numbers": numbers, "flops": flops}
print("FOUND" + json.dumps(found))
"""

SHARD_MAP_PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax import random
from jax.sharding import AxisType, PartitionSpec
from numpyro_sumo import SUMO, MultilevelSUMO
from tests.helpers.models import plated_problem

assert len(jax.devices()) == 2
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
problem = plated_problem(6)
(data,) = problem.args
LOSSES = {
    "sumo": SUMO(2, data_axes=0, chunk_size=3),
    "sumo_shared_times": SUMO(2, share_stopping_times=True, guide_objective="variance"),
    "multilevel": MultilevelSUMO(2, data_axes=0),
}
found = {}
for name, loss in LOSSES.items():
    def of_shard(params, data, key, index):
        key = random.fold_in(key, index)
        of_params = lambda p: loss.loss(key, p, problem.model, problem.guide, data)
        return jax.value_and_grad(of_params)(params)

    def on_devices(check_vma, params, data, key):
        value, gradient = of_shard(params, data, key, jax.lax.axis_index("data"))
        # Where JAX checks what varies, it sums the gradient in params that are on every device.
        over_devices = lambda leaf: jax.lax.psum(leaf, "data")
        return over_devices(value), gradient if check_vma else jax.tree.map(over_devices, gradient)

    def on_one(params, data, key):
        shard = lambda i: of_shard(params, data.reshape(2, 3)[i], key, i)
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), jax.lax.map(shard, jnp.arange(2)))

    specs = dict(in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()))
    specs |= dict(mesh=mesh, out_specs=PartitionSpec())
    ways = {"sum_over_shards": on_one}
    # What check_vma=False does to sums over devices is the same for every loss.
    for check_vma in (False, True) if name == "sumo" else (True,):
        run = lambda *a, check_vma=check_vma: on_devices(check_vma, *a)
        ways[f"check_vma={check_vma}"] = jax.shard_map(run, check_vma=check_vma, **specs)
    for way, function in ways.items():
        values = jax.jit(function)(problem.params, data, random.key(5))
        found.setdefault(name, {})[way] = [float(leaf) for leaf in jax.tree.leaves(values)]
print("FOUND" + json.dumps(found))
"""


def environment(num_devices):
    flags = f"--xla_force_host_platform_device_count={num_devices} {os.environ['XLA_FLAGS']}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def start(num_devices, *arguments, program=PROGRAM):
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-c", program, *arguments],
        env=environment(num_devices),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def found_by(process):
    output, error = process.communicate(timeout=600)
    assert process.returncode == 0, error[-4_000:]
    (line,) = (line for line in output.splitlines() if line.startswith("FOUND"))
    return json.loads(line.removeprefix("FOUND"))


def assert_same_numbers(found):
    for name, case in found.items():
        one, four = case["one"]["numbers"], case["four"]["numbers"]
        np.testing.assert_allclose(four, one, rtol=2e-5, atol=1e-5, err_msg=name)


def test_four_devices_give_the_numbers_of_one_for_a_part_of_the_work():
    found = found_by(start(4))
    assert_same_numbers(found)
    for name, case in found.items():
        assert case["four"]["flops"] < 0.7 * case["one"]["flops"], name


def test_two_processes_give_the_numbers_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start(2, address, str(index)) for index in range(2)]
    first, second = (found_by(process) for process in processes)
    assert_same_numbers(first)
    for name in first:
        assert first[name]["four"]["numbers"] == second[name]["four"]["numbers"]


def test_losses_inside_shard_map_are_summed_over_the_devices_with_their_gradients():
    found = found_by(start(2, program=SHARD_MAP_PROGRAM))
    assert len(found) == 3
    for name, ways in found.items():
        expected = ways.pop("sum_over_shards")
        assert len(ways) == (2 if name == "sumo" else 1)
        assert all(np.isfinite(expected)) and all(np.array(expected) != 0.0)
        for way, numbers in ways.items():
            np.testing.assert_allclose(
                numbers, expected, rtol=2e-5, atol=1e-5, err_msg=f"{name}, {way}"
            )


def mesh_of_one(kind):
    return jax.make_mesh((1,), ("draws",), axis_types=(kind,))


def test_data_that_share_their_draws_have_the_gradients_of_each_view():
    problem = plated_problem(4)

    def gradient(params, **options):
        loss = SUMO(2, gradient="standard", share_stopping_times=True, **options)
        of_params = lambda params: loss.loss(
            random.key(5), params, problem.model, problem.guide, *problem.args
        )
        return jax.grad(of_params)(params)

    sharding = NamedSharding(mesh_of_one(AxisType.Auto), PartitionSpec("draws"))
    both = jax.jit(lambda params: (gradient(params, sharding=sharding), gradient(params)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), *both(problem.params))


REFUSED = {
    "a_mesh": (lambda: mesh_of_one(AxisType.Auto), "NamedSharding over one axis of a mesh; got"),
    "no_axis": (
        lambda: NamedSharding(mesh_of_one(AxisType.Auto), PartitionSpec()),
        "NamedSharding over one axis of a mesh; got",
    ),
    "an_explicit_axis": (
        lambda: NamedSharding(mesh_of_one(AxisType.Explicit), PartitionSpec("draws")),
        "axis 'draws' to be of type Auto; it is Explicit. Make the mesh with axis_types",
    ),
}


@pytest.mark.parametrize("make, message", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("loss_class", [IWELBO, SUMO, MultilevelSUMO, IWHVI])
def test_what_is_no_axis_of_a_mesh_is_refused_in_one_line(loss_class, make, message):
    with pytest.raises(ValueError, match=message) as error:
        loss_class(sharding=make())
    assert "\n" not in str(error.value)


def test_an_axis_that_does_not_exist_is_refused_by_its_name():
    with pytest.raises(ValueError, match="rows"):
        SUMO(sharding=NamedSharding(mesh_of_one(AxisType.Auto), PartitionSpec("rows")))
