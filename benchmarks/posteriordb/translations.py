"""The posteriors of posteriordb that are translated from Stan to NumPyro."""

from typing import NamedTuple

from benchmarks.posteriordb.database import Database, Draws
from benchmarks.posteriordb.latent import LATENT
from benchmarks.posteriordb.regressions import REGRESSIONS, Model
from benchmarks.posteriordb.series import SERIES

#: Each maps data to a model whose latent and deterministic sites have the names of Stan.
TRANSLATIONS = REGRESSIONS | SERIES | LATENT

#: Models of each data set.
_MODELS = {
    "arK": ("arK",),
    "arma": ("arma11",),
    "bball_drive_event_0": ("hmm_drive_0",),
    "bball_drive_event_1": ("hmm_drive_1",),
    "diamonds": ("diamonds",),
    "earnings": (
        "earn_height",
        "log10earn_height",
        "logearn_height",
        "logearn_height_male",
        "logearn_interaction",
        "logearn_interaction_z",
        "logearn_logheight_male",
    ),
    "eight_schools": ("eight_schools_noncentered",),
    "garch": ("garch11",),
    "gp_pois_regr": ("gp_pois_regr", "gp_regr"),
    "hmm_example": ("hmm_example",),
    "hudson_lynx_hare": ("lotka_volterra",),
    "kidiq": (
        "kidscore_interaction",
        "kidscore_momhs",
        "kidscore_momhsiq",
        "kidscore_momiq",
    ),
    "kidiq_with_mom_work": (
        "kidscore_interaction_c",
        "kidscore_interaction_c2",
        "kidscore_interaction_z",
        "kidscore_mom_work",
    ),
    "kilpisjarvi_mod": ("kilpisjarvi",),
    "low_dim_gauss_mix": ("low_dim_gauss_mix",),
    "mesquite": (
        "logmesquite",
        "logmesquite_logva",
        "logmesquite_logvas",
        "logmesquite_logvash",
        "logmesquite_logvolume",
        "mesquite",
    ),
    **{f"nes{year}": ("nes",) for year in (*range(1972, 2000, 4), 2000)},
    "one_comp_mm_elim_abs": ("one_comp_mm_elim_abs",),
    "sblrc": ("blr",),
    "sblri": ("blr",),
}

#: Names of the posteriors: data set, hyphen, model.
POSTERIORS = tuple(f"{data}-{model}" for data, models in _MODELS.items() for model in models)


class Problem(NamedTuple):
    """A model without arguments, and reference draws of its posterior."""

    model: Model
    reference: Draws


def problem_of(database: Database, name: str) -> Problem:
    """A posterior with its data and reference draws."""
    model = TRANSLATIONS[name.partition("-")[2]](database.data(name))
    return Problem(model, database.reference(name))
