"""File formats of weights: one module each, which reads and writes tensors and knows nothing of models or backends."""
