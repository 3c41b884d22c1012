"""One order of latents wherever an automatic guide runs."""

from numpyro.infer.autoguide import AutoGuide


class InOrder(AutoGuide):
    """Latents in the order of their names.

    NumPyro's is that of the model if it is run as it stands, and that of names inside ``jit``, such
    that one vector, and params of it, would mean one thing here and another there.
    """

    def _setup_prototype(self, *args, **kwargs):
        super()._setup_prototype(*args, **kwargs)
        self._init_locs = dict(sorted(self._init_locs.items()))
