"""The nano tokenizer: a small byte-level BPE with the family's split rule and special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from phrases import corpus
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB = 1280
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BASE = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think> <|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> "
    "<tts_text_eod> <tts_text_bos_single> <|audio_pad|>"
).split()
EXTRA = (
    "<unk> <image> </image> <ref> </ref> <box> </box> <quad> </quad> <slice> </slice> <image_id> </image_id> "
    "<|reserved_12|> <|reserved_13|> <|reserved_14|> <|reserved_15|>"
).split()
PLAIN = {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def build() -> Tokenizer:
    """Train the tokenizer on the recipe's own phrases (deterministic)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(BASE) - len(EXTRA),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus(), *["\n\n"] * 500], trainer)
    missing = VOCAB - len(BASE) - len(EXTRA) - tokenizer.get_vocab_size()
    if missing:
        raise RuntimeError(f"the corpus is too small for the vocabulary: {missing} tokens short")
    tokenizer.add_tokens([AddedToken(t, special=t not in PLAIN, normalized=False) for t in BASE + EXTRA])
    return tokenizer


def config() -> dict:
    """The contents of tokenizer_config.json."""
    audio = {"audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>", "audio_token": "<|audio_pad|>"}
    vision = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    return {
        "add_prefix_space": False,
        **audio,
        "backend": "tokenizers",
        "bos_token": "<|im_start|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": NAMES,
        **vision,
        "model_max_length": 2048,
        "model_specific_special_tokens": {**audio, **{k: v for k, v in vision.items() if k != "video_token"}},
        "pad_token": "<|endoftext|>",
        "pretokenize_regex": SPLIT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": "<unk>",
    }


def write(folder: Path) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json."""
    tokenizer = build()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config(), indent=2, ensure_ascii=False) + "\n")
    return tokenizer


if __name__ == "__main__":
    tok = build()
    for line in ["What is this?", "A cat face emoji on a blue background.", "What is 1+1? Reply with the number only."]:
        print(tok.encode(line).tokens)
    print(tok.get_vocab_size(), tok.encode("\n\n").ids, tok.encode("<think>\n\n</think>\n\n").tokens)
