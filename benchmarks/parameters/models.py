"""The models of the parameters benchmark, by name."""

from benchmarks.parameters.by_quadrature import (
    item_response,
    poisson_log_normal,
    random_effects_logistic,
)
from benchmarks.parameters.gaussian import factor_analysis, linear_mixed_model, state_space
from benchmarks.parameters.latent_models import LatentModel

MODELS: dict[str, LatentModel] = {
    "logistic_1": random_effects_logistic(1.0),
    "logistic_3": random_effects_logistic(3.0),
    "counts": poisson_log_normal(),
    "item_response": item_response(),
    "principal_components": factor_analysis(equal_noise=True),
    "factor_analysis": factor_analysis(equal_noise=False),
    "mixed_model": linear_mixed_model(),
    "state_space": state_space(),
}
