"""TODO numpyro_sumo/programs."""
