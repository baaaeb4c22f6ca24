"""Parts of the benchmark of quantized nanos: candidates, questions, paired statistics, the page."""
