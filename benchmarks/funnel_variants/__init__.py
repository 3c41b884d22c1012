"""The funnel_variants benchmark."""
