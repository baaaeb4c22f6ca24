"""Parts of the benchmark of quantized formats."""
