"""Calibration sets: prompts whose activations say which weights matter, and held-out prompts that judge the result."""

from pocketvlm.quantize.calibration.default import default_set, held_out
from pocketvlm.quantize.calibration.reader import read_calibration
from pocketvlm.quantize.calibration.sample import KINDS, Kind, Sample

__all__ = ["KINDS", "Kind", "Sample", "default_set", "held_out", "read_calibration"]
