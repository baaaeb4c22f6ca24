"""What GGUF files of MiniCPM-V 4.6 do not say, as the released checkpoint has it.

Tokens are named by their spelling, so that files with another vocabulary work too. docs/model.md 1, 4, 5, 7.
"""

from __future__ import annotations

from pocketvlm.config import GenerationConfig

# config.json: placeholders, and the layer of the tower that the window merger follows.
IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
INSERT_LAYER = 6
# generation_config.json: answers end at both, a file names only the second.
END_TOKENS = ("<|endoftext|>", "<|im_end|>")
GENERATION = GenerationConfig(do_sample=True, temperature=0.7, top_k=0, top_p=1.0)
# preprocessor_config.json: the defaults of ProcessorConfig are those of the released checkpoint.
MAX_SLICE_NUMS = 9

# tokenizer.json: Unicode in composed form; words are split by this expression, then written in the byte alphabet.
NORMALIZER = {"type": "NFC"}
SPLIT_EXPRESSIONS = {
    "qwen35": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
