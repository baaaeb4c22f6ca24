"""The public names of the package are this list: adding or removing one is a decision, made here."""

from __future__ import annotations

import ast

import pytest
from source_tree import SOURCE

import pocketvlm

PUBLIC = [
    "BackendError",
    "CheckpointError",
    "Chunk",
    "Comparison",
    "ConfigError",
    "DownloadError",
    "Evaluation",
    "FinetuneResult",
    "ImageError",
    "ImageInfo",
    "InputError",
    "LLM",
    "LoRARequest",
    "MergeResult",
    "Model",
    "NewlineNormalizer",
    "OptionError",
    "PocketVLMError",
    "Prompt",
    "PromptError",
    "QuantizeResult",
    "Result",
    "SamplingParams",
    "TensorError",
    "Timings",
    "Usage",
    "VideoError",
    "VideoInfo",
    "View",
    "__version__",
    "compare_models",
    "convert_model",
    "evaluate",
    "finetune",
    "load",
    "merge_adapter",
    "normalize_newlines",
    "quantize_model",
]


def test_the_public_names() -> None:
    assert sorted(pocketvlm.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(pocketvlm))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(pocketvlm, name)
    assert isinstance(value, str) or value.__doc__


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((SOURCE / "pocketvlm" / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names = [
        alias.asname
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted([*map(str, names), "__version__"]) == PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = pocketvlm.lode


def test_every_error_is_one_of_ours() -> None:
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(pocketvlm, name), pocketvlm.PocketVLMError)
