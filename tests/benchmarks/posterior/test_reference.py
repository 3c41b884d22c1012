import numpy as np

from benchmarks.posterior import reference
from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.reference import Reference, reference_of


def test_a_reference_by_chains_is_saved_until_its_model_changes(tmp_path, monkeypatch):
    made = []

    def chains(problem, min_ess):
        made.append(problem.name)
        draws = {"log τ": np.arange(8.0).reshape(4, 2)}
        return Reference(draws, {}, {"title": "NUTS", "draws": 8})

    monkeypatch.setattr(reference, "chains_reference", chains)
    problem = PROBLEMS["eight_schools"]()
    for _ in range(2):
        found = reference_of(problem, 10, 100.0, tmp_path)
    assert made == ["eight_schools"]
    assert found.info == {"title": "NUTS", "draws": 8}
    np.testing.assert_array_equal(found.draws["log τ"], np.arange(8.0).reshape(4, 2))
    reference_of(problem._replace(args=(problem.args[0], 2 * problem.args[1])), 10, 100.0, tmp_path)
    reference_of(problem, 10, None, tmp_path)
    assert len(made) == 3
