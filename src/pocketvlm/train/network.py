"""`Network` is transformers' own class for a checkpoint, with peft's updates, and the loss of a batch of records."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from pocketvlm.config import ModelConfig
from pocketvlm.errors import CheckpointError
from pocketvlm.options.training import TrainingOptions
from pocketvlm.tensors import DenseTensor
from pocketvlm.train.features import Floats
from pocketvlm.train.records import Record
from pocketvlm.train.sample import IGNORED
from pocketvlm.types import View

# Logits of so many values are made at a time: a row of the released model has 248 094.
_LOGITS = 1 << 26
# Networks with more parameters recompute the activations of a layer in the backward pass instead of storing them.
_CHECKPOINTED = 100_000_000


class Network:
    """A checkpoint as transformers runs it. Weights that are not trained have the arithmetic's type, others float32.

    targets: modules that get low-rank updates with method "lora"; with "full" the language model is trained, and the
    vision tower too if `vision` is true. peft: the model that peft made; None with method "full".
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        options: TrainingOptions,
        targets: Sequence[str],
        vision: bool,
        device: torch.device,
    ) -> None:
        """path: a directory in the hub's layout. Raises CheckpointError where transformers cannot load it whole."""
        self.config, self.device, self.trains_vision = config, device, vision
        bf16 = options.dtype == "bf16" or (options.dtype == "auto" and device.type == "cuda")
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.model = _load(path, config, self.dtype)
        self.peft: Any = None
        torch.manual_seed(options.seed)  # the new matrices are the same in every process
        if options.method == "lora":
            self.peft = _with_updates(self.model, options, targets)
        else:
            self.model.requires_grad_(False)
            for part in self._trained_parts():
                part.requires_grad_(True)
        if sum(each.numel() for each in self.model.parameters()) > _CHECKPOINTED:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.to(device)
        self.parameters: dict[str, torch.nn.Parameter] = {
            name: each for name, each in self.model.named_parameters() if each.requires_grad
        }

    def drop_vision(self) -> None:
        """Free the vision tower and its mergers, whose features come from elsewhere."""
        self.model.model.vision_tower = self.model.model.merger = None

    def train(self, on: bool) -> None:
        """Turn dropout on or off."""
        self.model.train(on)

    def loss(self, records: Sequence[Record], features: Sequence[Sequence[Floats | torch.Tensor]]) -> torch.Tensor:
        """Sum of the cross entropy over all loss tokens of records, in nats: a float32 scalar.

        features: [tokens, hidden] for each view of each record. Records are padded on the right: every layer is causal,
        so that no row of a record reads the padding, and rows without a label have no loss.
        """
        length = max(len(record.ids) for record in records)
        ids = torch.from_numpy(_padded([record.ids for record in records], length, 0)).to(self.device)
        labels = torch.from_numpy(_padded([record.labels for record in records], length, IGNORED)).to(self.device)
        language = self.model.model.language_model
        x = language.embed_tokens(ids)
        x = self._with_features(x, records, features)
        hidden = language(inputs_embeds=x, position_ids=self._positions(records, length), use_cache=False)[0]
        chosen = labels[:, 1:] != IGNORED
        return self._cross_entropy(hidden[:, :-1][chosen], labels[:, 1:][chosen])

    def encode(self, view: View) -> torch.Tensor:
        """Features [tokens, hidden] of a view by the torch tower, with gradients while it is trained."""
        patch = self.config.vision.patch_size if self.config.vision else 0
        # transformers takes patches one after the other along the width of a strip [channels, patch, patches * patch].
        strip = view.patches.reshape(-1, 3, patch, patch).transpose(1, 2, 0, 3).reshape(1, 3, patch, -1)
        found = self.model.model.get_image_features(
            torch.from_numpy(np.ascontiguousarray(strip)).to(self.device),
            torch.tensor([(view.rows, view.cols)], dtype=torch.int32, device=self.device),
            downsample_mode=view.downsample_mode,
        )
        return torch.cat(list(found.pooler_output))

    def encode_frozen(self, view: View) -> Floats:
        """Features float32 [tokens, hidden] of a view, without gradients."""
        with torch.no_grad():
            found: Floats = self.encode(view).float().cpu().numpy()
        return found

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The updates under peft's names, as its files have them."""
        from peft import get_peft_model_state_dict

        with quiet():
            found: dict[str, torch.Tensor] = get_peft_model_state_dict(self.peft)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def adapter_config(self) -> dict[str, Any]:
        """The content of peft's adapter_config.json."""
        config: dict[str, Any] = self.peft.peft_config["default"].to_dict()
        config["inference_mode"] = True
        return {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}

    def tensors(self, parameters: Mapping[str, torch.Tensor]) -> Iterator[DenseTensor]:
        """Trained weights as bf16 tensors of a checkpoint, rounded to nearest."""
        for name, values in parameters.items():
            bits = values.detach().to(torch.bfloat16).cpu().view(torch.uint16).numpy()
            yield DenseTensor(name, "bf16", bits)

    def _trained_parts(self) -> list[torch.nn.Module]:
        inner = self.model.model
        parts = [inner.language_model, self.model.lm_head]
        return [*parts, inner.vision_tower, inner.merger] if self.trains_vision else parts

    def _with_features(
        self, x: torch.Tensor, records: Sequence[Record], features: Sequence[Sequence[Floats | torch.Tensor]]
    ) -> torch.Tensor:
        rows = [torch.as_tensor(each).to(x.device, x.dtype) for group in features for each in group]
        if not rows:
            return x
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        for number, record in enumerate(records):
            for view in record.views:
                mask[number, view.start : view.start + view.tokens] = True
        return x.masked_scatter(mask.to(x.device)[..., None], torch.cat(rows))

    def _positions(self, records: Sequence[Record], length: int) -> torch.Tensor | None:
        """Rotary positions int64 [3, records, length], or None where each is the token's index."""
        if all(record.positions is None for record in records):
            return None
        found = np.tile(np.arange(length, dtype=np.int64), (3, len(records), 1))
        for number, record in enumerate(records):
            if record.positions is not None:
                found[:, number, : record.positions.shape[1]] = record.positions
        return torch.from_numpy(found).to(self.device)

    def _cross_entropy(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum over rows [n, hidden]; many rows in parts, whose logits are made again in the backward pass."""
        step = max(1, _LOGITS // self.config.text.vocab_size)

        def part(some: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.model.lm_head(some).float(), wanted, reduction="sum")

        if len(rows) <= step:
            return part(rows, labels)
        pairs = zip(torch.split(rows, step), torch.split(labels, step), strict=True)
        return torch.stack([checkpoint(part, some, wanted, use_reentrant=False) for some, wanted in pairs]).sum()


def _padded(rows: Sequence[Any], length: int, value: int) -> np.ndarray[Any, Any]:
    found = np.full((len(rows), length), value, np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return found


def _load(path: Path, config: ModelConfig, dtype: torch.dtype) -> Any:
    """transformers' model in eval mode. Raises CheckpointError for tensors that it does not find or use."""
    import transformers

    kind = getattr(transformers, config.family.architecture, None)
    if kind is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} does not know {config.family.architecture}: "
            f'pip install --upgrade "pocketvlm[train]"'
        )
    with quiet():
        model, found = kind.from_pretrained(path, dtype=dtype, local_files_only=True, output_loading_info=True)
    missing = sorted(set(found["missing_keys"]))
    if missing or found["mismatched_keys"]:
        raise CheckpointError(f"{path}: transformers misses {', '.join(missing[:4]) or found['mismatched_keys']}")
    return model.eval()


def _with_updates(model: Any, options: TrainingOptions, targets: Sequence[str]) -> Any:
    """The model with peft's LoRA in the target modules; everything else is frozen."""
    import peft

    alpha: Any = int(options.alpha) if options.alpha == int(options.alpha) else options.alpha
    settings = peft.LoraConfig(
        r=options.rank,
        lora_alpha=alpha,
        lora_dropout=options.dropout,
        target_modules=list(targets),
    )
    with quiet():
        return peft.get_peft_model(model, settings)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and notes of transformers and peft, which say nothing about this run."""
    from transformers.utils import logging as transformers_logging

    notes: Any = transformers_logging
    bars, level = notes.is_progress_bar_enabled(), notes.get_verbosity()
    notes.disable_progress_bar()
    notes.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()
