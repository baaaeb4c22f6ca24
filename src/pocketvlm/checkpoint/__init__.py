"""Checkpoints: find or fetch the files (`hub`), then read them as configurations and tensors (`huggingface`).

Nothing is imported here, so that `hub` works without NumPy and `huggingface` without the download client.
"""
