"""The defaults benchmark."""
