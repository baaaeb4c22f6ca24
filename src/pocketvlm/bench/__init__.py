"""Benchmarks of the engine itself: the released shape with random weights, scenarios, the roofline."""
