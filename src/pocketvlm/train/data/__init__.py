"""Readers of training data as other tools write it: each answer becomes a `Sample`, each fault a line with its place.

`read_dataset` reads files of LLaMA-Factory, ms-swift, TRL and OpenAI without PyTorch and without opening any image.
"""

from pocketvlm.train.data.dataset import Dataset, check_sources, read_dataset
from pocketvlm.train.data.files import Problem

__all__ = ["Dataset", "Problem", "check_sources", "read_dataset"]
