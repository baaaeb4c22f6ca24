"""`processor_for` and `engine_for` make a checkpoint's processor, and the engine of a network with the given limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketvlm.api.about import arithmetic
from pocketvlm.backends.backend import CacheLocation
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.engine import Engine
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.model import MiniCPMV
from pocketvlm.options.load import LoadOptions
from pocketvlm.processor.processor import Processor

_OPTIONS = ("prefill_chunk", "max_model_len", "max_seqs", "prefix_cache", "vision_cache")


def processor_for(checkpoint: Checkpoint, cache: CacheLocation | None = None) -> Processor:
    """The processor of a checkpoint; reads its tokenizer, or the cached vocabulary, but none of its tensors."""
    return Processor.from_checkpoint_files(
        checkpoint.processor,
        checkpoint.tokenizer,
        checkpoint.tokenizer_config,
        checkpoint.chat_template,
        checkpoint.model.image_token_id,
        cache=cache,
        family=checkpoint.model.family,
        marker_ids=checkpoint.model.marker_ids,
    )


def engine_for(network: MiniCPMV, checkpoint: Checkpoint, options: LoadOptions) -> Engine:
    """An engine; files of features belong to the checkpoint and to the arithmetic. Raises OptionError."""
    given: dict[str, Any] = {name: value for name in _OPTIONS if (value := getattr(options, name)) is not None}
    if options.vision_cache_dir is not None:
        limit = {} if options.vision_cache_disk is None else {"limit": options.vision_cache_disk}
        owner = f"{checkpoint.fingerprint} {sorted(arithmetic(network.backend).items())}"
        given["vision_files"] = FeatureFiles(Path(options.vision_cache_dir).expanduser(), owner, **limit)
    return Engine(network, options.memory_limit, **given)
