"""MiniCPM-V 4.6: the position of each token is its index, also inside images (docs/model.md 3.4)."""

from __future__ import annotations

from pocketvlm.families.family import Family

MINICPMV4_6 = Family(
    name="MiniCPM-V 4.6",
    model_type="minicpmv4_6",
    vision_type="minicpmv4_6_vision",
    architecture="MiniCPMV4_6ForConditionalGeneration",
)
