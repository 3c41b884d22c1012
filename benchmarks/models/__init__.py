"""The models benchmark."""
