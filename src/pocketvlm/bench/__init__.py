"""These benchmarks measure the engine itself, on a checkpoint or on the released shape with random weights."""
