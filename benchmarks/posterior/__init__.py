"""Posterior benchmark: learned samplers beside NUTS on posteriors that are hard for MCMC."""
