"""Funnel benchmark: learned samplers of a funnel, trained with each loss, beside NUTS."""
