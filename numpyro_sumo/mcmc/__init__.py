"""TODO numpyro_sumo/mcmc."""
