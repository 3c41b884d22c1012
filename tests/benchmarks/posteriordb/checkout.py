"""Writes folders of the layout of posteriordb, for tests."""

import json
import zipfile

import numpy as np


def _write(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(file.name.removesuffix(".zip"), json.dumps(values))


def write_posterior(root, name, data, draws):
    """Write a posterior; draws have shape ``(chain, draw)`` by Stan's names."""
    folder = root / "posterior_database"
    data_name, _, model_name = name.partition("-")
    file = folder / "posteriors" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"name": name, "data_name": data_name, "model_name": model_name}))
    _write(folder / "data" / "data" / f"{data_name}.json.zip", data)
    num_chains = len(next(iter(draws.values())))
    chains = [{key: list(values[c]) for key, values in draws.items()} for c in range(num_chains)]
    _write(folder / "reference_posteriors" / "draws" / "draws" / f"{name}.json.zip", chains)


KIDS = {
    "kid_score": [60.0, 80.0, 100.0, 90.0],
    "mom_hs": [0, 1, 1, 0],
    "mom_iq": [90.0, 100.0, 120.0, 110.0],
}


def kid_draws(num_draws=250):
    """Four chains of made-up draws of kidiq-kidscore_momhs."""
    rng = np.random.default_rng(0)
    normal = lambda loc: loc + rng.standard_normal((4, num_draws))
    return {"beta[1]": normal(70.0), "beta[2]": normal(10.0), "sigma": np.exp(normal(0.0))}
