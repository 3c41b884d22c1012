"""TODO numpyro_sumo/guides."""
