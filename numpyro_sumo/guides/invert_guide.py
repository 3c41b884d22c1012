"""The draws of an automatic guide from the latent values that are computed from them."""

from collections.abc import Callable
from typing import Any

from numpyro.infer.autoguide import AutoContinuous, AutoGuideList

from numpyro_sumo._compat import pack_latents

from .hierarchical import Sites


def invert_guide(guide: Callable[..., Any], latents: Sites) -> Sites:
    """Values of the sites that a guide draws, by name, at which it gives these latents.

    A guide that draws the latent sites themselves has no others. One with a vector in unconstrained
    space (AutoMultivariateNormal and its like) draws that vector.

    :param guide: a program whose density is known; an automatic guide has run before.
    :param latents: values of the model's latent sites, or more.
    """
    if isinstance(guide, AutoGuideList):
        drawn = dict(latents)
        for part in guide:
            drawn = invert_guide(part, drawn)
        return drawn
    if isinstance(guide, AutoContinuous):
        # Its latent sites are computed: given up to rounding only, they would have density zero.
        vector, own = pack_latents(guide, latents)
        return {name: value for name, value in latents.items() if name not in own} | vector
    return latents
