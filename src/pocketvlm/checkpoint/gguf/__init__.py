"""This package reads GGUF files: the header, the names of tensors, and configurations and a tokenizer out of it."""
