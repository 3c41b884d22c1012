"""Code shared by the benchmarks: command line, training, judging, tables, pictures, reports."""
