"""Speed benchmark: time, compilation and memory of a training step."""
