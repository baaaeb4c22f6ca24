"""File formats of weights, one module each: reading and writing tensors, and nothing else."""
