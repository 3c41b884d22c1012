"""Density benchmark: latent-variable models trained on bounds and on unbiased estimates."""
