"""MCMC kernels for :class:`numpyro.infer.MCMC`."""
