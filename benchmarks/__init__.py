"""Benchmarks: each opens with the question it answers and writes what it found."""
