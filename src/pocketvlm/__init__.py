"""pocketvlm runs MiniCPM-V 4.6: `pocketvlm.load("nano").ask("What is this?", images=["cat.png"])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pocketvlm.api import Model as Model
    from pocketvlm.api import load as load
    from pocketvlm.api.comparing import compare_models as compare_models
    from pocketvlm.api.comparison import Comparison as Comparison
    from pocketvlm.api.converting import convert_model as convert_model
    from pocketvlm.api.evaluation import Evaluation as Evaluation
    from pocketvlm.api.evaluation import evaluate as evaluate
    from pocketvlm.api.finetuning import finetune as finetune
    from pocketvlm.api.llm import LLM as LLM
    from pocketvlm.api.llm import LoRARequest as LoRARequest
    from pocketvlm.api.merging import MergeResult as MergeResult
    from pocketvlm.api.merging import merge_adapter as merge_adapter
    from pocketvlm.api.quantizing import quantize_model as quantize_model
    from pocketvlm.api.training_run import FinetuneResult as FinetuneResult
    from pocketvlm.errors import BackendError as BackendError
    from pocketvlm.errors import CheckpointError as CheckpointError
    from pocketvlm.errors import ConfigError as ConfigError
    from pocketvlm.errors import DownloadError as DownloadError
    from pocketvlm.errors import ImageError as ImageError
    from pocketvlm.errors import InputError as InputError
    from pocketvlm.errors import OptionError as OptionError
    from pocketvlm.errors import PocketVLMError as PocketVLMError
    from pocketvlm.errors import PromptError as PromptError
    from pocketvlm.errors import TensorError as TensorError
    from pocketvlm.errors import VideoError as VideoError
    from pocketvlm.parsing.newlines import NewlineNormalizer as NewlineNormalizer
    from pocketvlm.parsing.newlines import normalize_newlines as normalize_newlines
    from pocketvlm.quantize.result import QuantizeResult as QuantizeResult
    from pocketvlm.types import Chunk as Chunk
    from pocketvlm.types import ImageInfo as ImageInfo
    from pocketvlm.types import Prompt as Prompt
    from pocketvlm.types import Result as Result
    from pocketvlm.types import SamplingParams as SamplingParams
    from pocketvlm.types import Timings as Timings
    from pocketvlm.types import Usage as Usage
    from pocketvlm.types import VideoInfo as VideoInfo
    from pocketvlm.types import View as View

# Where each public name lives; modules are imported on first use so that `import pocketvlm` stays cheap.
_HOMES = {
    "pocketvlm.api": ("Model", "load"),
    "pocketvlm.api.comparing": ("compare_models",),
    "pocketvlm.api.comparison": ("Comparison",),
    "pocketvlm.api.converting": ("convert_model",),
    "pocketvlm.api.evaluation": ("Evaluation", "evaluate"),
    "pocketvlm.api.finetuning": ("finetune",),
    "pocketvlm.api.llm": ("LLM", "LoRARequest"),
    "pocketvlm.api.merging": ("MergeResult", "merge_adapter"),
    "pocketvlm.api.quantizing": ("quantize_model",),
    "pocketvlm.api.training_run": ("FinetuneResult",),
    "pocketvlm.errors": (
        "BackendError",
        "CheckpointError",
        "ConfigError",
        "DownloadError",
        "ImageError",
        "InputError",
        "OptionError",
        "PocketVLMError",
        "PromptError",
        "TensorError",
        "VideoError",
    ),
    "pocketvlm.parsing.newlines": ("NewlineNormalizer", "normalize_newlines"),
    "pocketvlm.quantize.result": ("QuantizeResult",),
    "pocketvlm.types": (
        "Chunk",
        "ImageInfo",
        "Prompt",
        "Result",
        "SamplingParams",
        "Timings",
        "Usage",
        "VideoInfo",
        "View",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME), "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pocketvlm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
