"""Writes GGUF files: the language model and the vision file (mmproj), as llama.cpp reads them."""
