"""This package finds or downloads checkpoints and reads their configurations and tensors.

Nothing is imported here, so that `hub` works without NumPy and `huggingface` without the download client.
"""
