"""The funnel benchmark."""
