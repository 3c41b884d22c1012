"""The density_variants benchmark."""
