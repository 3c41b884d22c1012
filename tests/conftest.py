"""Compiles quickly in all tests, collects garbage seldom, and marks the quick and the slow ones."""

import gc

import pytest

from numpyro_sumo import _compat
from tests.helpers.compiling import compile_quickly, share_compiled

compile_quickly()
_compat._FEW_PASSES.clear()  # so that the flags above hold for what is run once, too
# Every search for garbage goes through much of what tracing has made so far.
gc.set_threshold(100_000, 20, 50)

#: Files, and tests by the beginning of their names, that together take 90 seconds on two cores.
QUICK = (
    "numpyro_sumo/",
    "tests/benchmarks/common/test_cli.py",
    "tests/benchmarks/common/test_distributions.py",
    "tests/benchmarks/common/test_results.py",
    "tests/benchmarks/structure/",
    "tests/diagnostics/test_arviz.py",
    "tests/certificates/test_certify.py::test_systematic_resampling",
    "tests/diagnostics/test_kl_divergence.py::test_exact_divergences",
    "tests/estimators/",
    "tests/guides/test_defensive_reverse.py",
    "tests/guides/test_hierarchical.py",
    "tests/losses/test_iwelbo.py::test_particles_of_the_same_keys",
    "tests/losses/test_losses.py::test_exact_posterior",
    "tests/losses/test_losses.py::test_pickled",
    "tests/losses/test_losses.py::test_repr",
    "tests/mcmc/test_independence_metropolis.py::test_options",
    "tests/mcmc/test_independence_metropolis.py::test_rate",
    "tests/programs/test_check_sites.py",
    "tests/programs/test_path_gradient.py::test_density_of_a_transformed_draw",
    "tests/programs/test_validation.py",
    "tests/ragged/test_evaluate.py::test_value_and_gradient",
    "tests/ragged/test_sharding.py::test_what",
    "tests/test_checks.py",
    "tests/test_documents.py",
    "tests/test_fixed_keys.py::test_numbers_at_a_fixed_key_are_those_recorded[iwelbo",
    "tests/test_fixed_keys.py::test_numbers_at_a_fixed_key_are_those_recorded[sumo_",
    "tests/test_quick.py",
    "tests/test_structure.py",
)


#: Tests by the beginning of their names: whole runs of benchmarks, and long Monte Carlo. They run
#: by ``-m slow`` only, in four minutes.
SLOW = (
    "tests/benchmarks/coverage/test_coverage.py::test_run_writes",
    "tests/benchmarks/density/test_bench.py::test_run_is_continued",
    "tests/benchmarks/parameters/test_command.py::test_quick_run",
    "tests/benchmarks/posterior/test_bench.py::test_a_quick_run",
    "tests/diagnostics/test_kl_divergence.py::test_more_particles_fit",
    "tests/diagnostics/test_standard_errors.py::test_errors_of_mixed_models",
    "tests/guides/test_auto_hierarchical.py::test_begins_as_the_normal",
    "tests/guides/test_auto_hierarchical.py::test_the_fit_is_the_target_where_that_is_normal",
    "tests/guides/test_normal_fit.py::test_a_likelihood_may_be_subsampled",
    "tests/losses/test_derivatives.py::test_gradients_and_hessians_have_no_bias",
    "tests/losses/test_dreg.py::test_autoguides_climb",
    "tests/losses/test_dreg.py::test_reverse_model_climbs",
    "tests/losses/test_dreg.py::test_score_free_gradient_has",
    "tests/losses/test_sumo.py::test_value_and_gradient_in_twenty_dimensions",
    "tests/losses/test_sumo.py::test_variance_objective_gives",
    "tests/losses/test_svi.py::test_an_ensemble_of_runs",
    "tests/programs/test_path_gradient.py::test_density_of_a_flow",
    "tests/test_optim.py::test_svi_learns_the_exact_scale",
)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.add_cleanup(share_compiled())


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(QUICK):
            item.add_marker(pytest.mark.quick)
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
