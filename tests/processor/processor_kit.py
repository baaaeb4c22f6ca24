"""Helpers of the processor tests: a small tokenizer with the control tokens, a template, both processors."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from video_kit import reference_video

from pocketvlm.backends.backend import CacheLocation
from pocketvlm.config import ProcessorConfig
from pocketvlm.processor import ChatTemplate, Processor, Tokenizer
from pocketvlm.processor.vocabulary import Vocabulary

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Name and whether skip_special_tokens leaves it out.
CONTROL = {
    "<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<|vision_start|>": True, "<|vision_end|>": True,
    "<|image_pad|>": True, "<|video_pad|>": True, "<tool_call>": False, "</tool_call>": False,
    "<tool_response>": False, "</tool_response>": False, "<think>": False, "</think>": False, "<unk>": True,
    "<image>": True, "</image>": True, "<slice>": True, "</slice>": True, "<image_id>": True, "</image_id>": True,
    "<|reserved_12|>": True,
}  # fmt: skip
EXTRA = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
SETTINGS: dict[str, Any] = {
    "tokenizer_class": "TokenizersBackend",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "bos_token": "<|im_start|>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "extra_special_tokens": EXTRA,
}
PREPROCESSOR: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

# The format of docs/model.md 6 in a few lines: parts joined by line feeds, trimmed; reasoning only after the last
# question; tools, tool calls and tool results.
TEMPLATE = """
{%- macro flat(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content -%}
    {%- for part in content -%}
      {{- '' if loop.first else '\\n' -}}
      {%- if part.type == 'image' -%}<|image_pad|>
      {%- elif part.type == 'video' -%}<|video_pad|>
      {%- elif part.type == 'text' -%}{{ part.text }}
      {%- else -%}{{ raise_exception('Unexpected item type in content.') }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}
  {%- set text = flat(message.content) | trim -%}
  {%- if message.role == 'user'
      and not (text.startswith('<tool_response>') and text.endswith('</tool_response>')) -%}
    {%- set ns.last = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- if ns.last < 0 -%}{{ raise_exception('No user query found in messages.') }}{%- endif -%}
{%- if tools -%}
  <|im_start|>system\\n# Tools\\n<tools>
  {%- for tool in tools -%}{{ '\\n' + (tool | tojson) }}{%- endfor -%}
  {{- '\\n</tools><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set text = flat(message.content) | trim -%}
  {%- if message.role == 'assistant' -%}
    {%- set thought = message.reasoning_content or '' -%}
    {%- if not thought and '</think>' in text -%}
      {%- set thought = text.split('</think>')[0].split('<think>')[-1] -%}
      {%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if loop.index0 > ns.last -%}{{ '<think>\\n' + thought | trim + '\\n</think>\\n\\n' }}{%- endif -%}
    {{- text -}}
    {%- for call in message.tool_calls or [] -%}
      {{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' -}}
      {%- for name, value in call.function.arguments | items -%}
        {{- '<parameter=' + name + '>\\n' + (value | string if value is string else value | tojson) -}}
        {{- '\\n</parameter>\\n' -}}
      {%- endfor -%}
      {{- '</function>\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- elif message.role == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>\\n' + text + '\\n</tool_response><|im_end|>\\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + message.role + '\\n' + text + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n<think>\\n' + ('' if enable_thinking else '\\n</think>\\n\\n') -}}
{%- endif -%}
"""


def write_tokenizer(folder: Path, control: dict[str, bool] | None = None) -> Path:
    """A byte-level BPE trained on a few words, with control tokens behind its vocabulary; returns tokenizer.json."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    words = "the image shows a red square on an end start pad think tool call response slice user system été 中文 日本"
    backend.train_from_iterator([words, words.upper(), words.replace(" ", "_|<>/ \n")] * 3, trainer)
    backend.add_tokens(
        [AddedToken(text, special=special, normalized=False) for text, special in (control or CONTROL).items()]
    )
    path = folder / "tokenizer.json"
    backend.save(str(path))
    return path


@cache
def ours(folder: Path) -> Processor:
    """pocketvlm's processor over the small tokenizer."""
    tokenizer = Tokenizer.from_files(write_tokenizer(folder), SETTINGS)
    return Processor(ProcessorConfig.from_dict(PREPROCESSOR), tokenizer, ChatTemplate.load(TEMPLATE, SETTINGS))


@cache
def reference_images() -> Any:
    """transformers' PIL image processor with the checkpoint's settings."""
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    return MiniCPMV4_6ImageProcessorPil(**PREPROCESSOR)


@cache
def reference(folder: Path, template: str = TEMPLATE, family: str = "minicpmv4_6") -> Any:
    """transformers' whole processor of a family over the same tokenizer file and template."""
    from transformers import TokenizersBackend

    module = import_module(f"transformers.models.{family}.processing_{family}")
    kind = next(kind for name, kind in vars(module).items() if re.fullmatch(r"MiniCPMV4_\dProcessor", name))

    class WithoutTorchvision(kind):  # type: ignore[misc, valid-type]
        """Its parts are given: the PIL image processor, and the video processor without what torchvision does."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    path = write_tokenizer(folder)
    path.with_name("tokenizer_config.json").write_text(json.dumps(SETTINGS))
    tokenizer = TokenizersBackend.from_pretrained(folder)
    return WithoutTorchvision(reference_images(), reference_video(), tokenizer, chat_template=template)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image whose every pixel matters."""
    values = np.random.default_rng((seed, width, height)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def place(directory: Path) -> CacheLocation:
    return CacheLocation(directory / "packed", "a model", "its directory", "")


def same(one: Vocabulary, other: Vocabulary) -> None:
    """Equal in every field and in every byte of every array."""
    for field in fields(Vocabulary):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, memoryview):
            assert first.tobytes() == second.tobytes(), field.name
            assert first.readonly
            assert second.readonly
        else:
            assert first == second, field.name
