"""The common benchmark."""
