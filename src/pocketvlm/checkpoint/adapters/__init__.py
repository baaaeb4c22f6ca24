"""Adapters (LoRA) in PEFT's file format: `read_adapter` reads a folder or repository, `write_adapter` writes a folder.

Supported are LoRA updates of matrices and embeddings, `modules_to_save`, biases and trained tokens, as peft,
LLaMA-Factory and ms-swift write them. All else is refused by name (docs/adapters.md, "Files and merging").
"""

from pocketvlm.checkpoint.adapters.reader import read_adapter
from pocketvlm.checkpoint.adapters.writer import write_adapter

__all__ = ["read_adapter", "write_adapter"]
