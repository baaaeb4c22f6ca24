"""Times transformers, the reference implementation, with the same weights in bfloat16."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from inputs import random_ids
from numpy.typing import NDArray
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

from comparison.ours import clock, image_prompt, text_prompt, view
from pocketvlm.bench.shape import RELEASED
from pocketvlm.config import ModelConfig
from pocketvlm.tensors import DenseTensor
from pocketvlm.types import Prompt

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from oracle import _restore_buffers, reference_inputs

HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"


class Reference:
    """A transformers model whose parameters are our tensors."""

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, DenseTensor], threads: int, dtype: torch.dtype
    ) -> None:
        torch.set_num_threads(threads)
        self.config = config
        data = {key: value for key, value in RELEASED.items() if key not in ("architectures", "model_type")}
        with torch.device("meta"):
            self.model: Any = MiniCPMV4_6ForConditionalGeneration(MiniCPMV4_6Config(**data)).eval()
        self._tensors = tensors
        self.take(dtype)
        _restore_buffers(self.model)
        left = [name for name, value in (*self.model.named_parameters(), *self.model.named_buffers()) if value.is_meta]
        if left:
            raise RuntimeError(f"transformers has tensors that nothing was loaded into: {', '.join(left)}")

    def take(self, dtype: torch.dtype) -> None:
        """Load the weights in a type. Raises RuntimeError for a name or a shape that is not in the model, or left out.

        In bfloat16 the memory is the tensors' own.
        """
        values = {}
        for name, tensor in self._tensors.items():
            if tensor.dtype != "bf16":
                raise RuntimeError(f"{name} is {tensor.dtype}: the comparison takes bfloat16 weights")
            values[name] = torch.from_numpy(tensor.data).view(torch.bfloat16).to(dtype)
        values[HEAD] = values[EMBEDDING]
        self.model.load_state_dict(values, strict=True, assign=True)

    def versions(self) -> dict[str, str]:
        """The versions of the libraries."""
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    @torch.no_grad()
    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits [ids, vocab]."""
        return self.model(**self._inputs(text_prompt(ids))).logits[0].float().numpy()

    @torch.no_grad()
    def features(self, mode: str, seed: int) -> NDArray[np.float32]:
        """Features of a random view."""
        found = self.model.model.get_image_features(**self._view(mode, seed)).pooler_output
        return torch.cat(found).float().numpy()

    @torch.no_grad()
    def prefill(self, tokens: int) -> float:
        """Seconds from ids to the logits of the last."""
        return self._first(text_prompt(random_ids(tokens)))

    @torch.no_grad()
    def image(self, views: int, text: int) -> float:
        """The same for a prompt with images."""
        return self._first(image_prompt(self.config, views, text))

    @torch.no_grad()
    def vision(self, mode: str) -> float:
        """Seconds for the features of a view."""
        inputs = self._view(mode, 0)
        return clock(lambda: self.model.model.get_image_features(**inputs))

    def _first(self, prompt: Prompt) -> float:
        inputs = self._inputs(prompt)
        return clock(lambda: self.model(**inputs, use_cache=True, logits_to_keep=1))

    def _view(self, mode: str, seed: int) -> dict[str, Any]:
        found = view(mode, seed)
        ids = np.full(found.tokens, self.config.image_token_id, np.int32)
        inputs = self._inputs(Prompt(ids, (found,), (), ""))
        del inputs["input_ids"]
        return inputs

    def _inputs(self, prompt: Prompt) -> dict[str, Any]:
        return reference_inputs(prompt, self.config)
