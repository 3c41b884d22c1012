"""NumPyro programs: their sites, log-weights and plates, and checks that model and guide match."""
