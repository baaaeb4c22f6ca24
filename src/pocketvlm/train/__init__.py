"""Fine-tuning: data files, training samples, and the training loop (extra `train`)."""
