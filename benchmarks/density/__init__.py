"""The density benchmark."""
