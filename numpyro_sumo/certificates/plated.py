"""Arrays with an entry for each datum, laid out along the plates of each latent site."""

from dataclasses import dataclass

import numpy as np

from numpyro_sumo.programs.sites import is_enumerated, latent_sites
from numpyro_sumo.programs.validation import Inspection


@dataclass(frozen=True)
class Plated:
    """Where the plates of the data are among the axes of each latent site.

    :param data_dims: batch dimensions (negative) of these plates, ascending; none for joint
        weights.
    :param event_dims: the number of event dimensions of each latent site, by name.
    """

    data_dims: tuple[int, ...]
    event_dims: dict[str, int]

    @classmethod
    def of(cls, found: Inspection) -> "Plated":
        """Of a model whose sites have been inspected."""
        sites = latent_sites(found.model.trace)
        drawn = {name: site for name, site in sites.items() if not is_enumerated(site)}
        event_dims = {name: int(site["fn"].event_dim) for name, site in drawn.items()}
        return cls(tuple(sorted(found.data_dims)), event_dims)

    def spread(self, name: str, values: np.ndarray, of_data: np.ndarray) -> np.ndarray:
        """Numbers of each draw and datum, with axes that broadcast to a site's values.

        :param values: of the site, with a leading axis of draws.
        :param of_data: shape ``(draws, *data)``.
        """
        batch_dims = values.ndim - 1 - self.event_dims[name]
        sizes = dict(zip(self.data_dims, of_data.shape[1:]))
        batch = [sizes.get(dim, 1) for dim in range(-batch_dims, 0)]
        return of_data.reshape(len(of_data), *batch, *[1] * self.event_dims[name])

    def take(self, name: str, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The values of a site at chosen draws, each datum at its own.

        :param chosen: indices of draws, shape ``(draws, *data)``.
        """
        if not self.data_dims:
            return values[chosen]
        return np.take_along_axis(values, self.spread(name, values, chosen), axis=0)
