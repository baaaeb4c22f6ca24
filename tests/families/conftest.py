"""The families' tests use the small tokenizer and the reference processors of the processor's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "processor"))
