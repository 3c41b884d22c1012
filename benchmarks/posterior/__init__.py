"""The posterior benchmark."""
