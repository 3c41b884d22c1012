"""Read data and reference draws of posteriordb, and Stan's names of parameters."""

import json
from pathlib import Path
import re
from typing import Any
import zipfile

import numpy as np

from benchmarks.common.results import InputError

#: Data of a posterior by Stan's names.
Data = dict[str, Any]

#: Draws by Stan's names such as ``beta[1]``, each of shape ``(chain, draw)``.
Draws = dict[str, np.ndarray]

_NAME = re.compile(r"(?P<site>\w+)(?:\[(?P<indices>[\d,]+)\])?")


class Database:
    """A checkout of posteriordb, or a part of one.

    :param root: the folder that contains ``posterior_database``.
    :raises InputError: if it has no posteriors; one line.

    **Source:** Magnusson et al. 2025, *posteriordb: Testing, benchmarking and developing Bayesian
    inference algorithms*, https://github.com/stan-dev/posteriordb.
    """

    def __init__(self, root: Path):
        self._folder = root / "posterior_database"
        if not any(self._folder.glob("posteriors/*.json")):
            raise InputError(
                f"Expected the root of a checkout of posteriordb; got '{root}' without "
                "'posterior_database/posteriors/*.json'. Clone "
                "https://github.com/stan-dev/posteriordb, and pass its folder by --data."
            )

    def has(self, name: str) -> bool:
        """Whether a posterior is there with its data and reference draws."""
        if not self._posterior(name).exists():
            return False
        return self._data(name).exists() and self._draws(name).exists()

    def data(self, name: str) -> Data:
        """The data of a posterior."""
        return _read(self._data(name))

    def reference(self, name: str) -> Draws:
        """The reference draws of a posterior."""
        chains = _read(self._draws(name))
        return {name: np.array([chain[name] for chain in chains], float) for name in chains[0]}

    def _posterior(self, name: str) -> Path:
        return self._folder / "posteriors" / f"{name}.json"

    def _data(self, name: str) -> Path:
        data_name = json.loads(self._posterior(name).read_text())["data_name"]
        return self._folder / "data" / "data" / f"{data_name}.json.zip"

    def _draws(self, name: str) -> Path:
        return self._folder / "reference_posteriors" / "draws" / "draws" / f"{name}.json.zip"


def by_stan_names(draws: dict[str, np.ndarray], names: list[str]) -> Draws:
    """Pick numbers out of sites by Stan's names, whose indices begin at 1.

    :param draws: by site, each of shape ``(chain, draw, ...)``.

    >>> import numpy as np
    >>> from benchmarks.posteriordb.database import by_stan_names
    >>> draws = {"mu": np.zeros((1, 2)), "beta": np.array([[[1.0, 2.0], [3.0, 4.0]]])}
    >>> by_stan_names(draws, ["beta[2]"])
    {'beta[2]': array([[2., 4.]])}
    """
    return {name: _pick(draws, name) for name in names}


def _pick(draws: dict[str, np.ndarray], name: str) -> np.ndarray:
    match = _NAME.fullmatch(name)
    if match is None or match["site"] not in draws:
        raise ValueError(f"Expected sites {', '.join(draws)}; got the parameter '{name}' of Stan.")
    indices = (match["indices"] or "").split(",")
    at: tuple[Any, ...] = (..., *(int(index) - 1 for index in indices if index))
    return np.asarray(draws[match["site"]], np.float64)[at]


def _read(file: Path) -> Any:
    """The JSON in a ZIP file of one member."""
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read(archive.namelist()[0]))
