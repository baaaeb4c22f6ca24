"""The scripts in examples/ run and say what their pictures show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "dials.py": ["dials/train.jsonl: 480 images", "dials/test.jsonl: 100 images"],
    "many_questions.py": ["penguin.png: A penguin emoji.", "missing.png: ", "no such file", "3 yellow stars"],
    "moved_from_vllm.py": ["A penguin emoji.\n3\n"],
    "watch_a_clip.py": ["5 of 50 frames, 55 tokens\nA penguin moves right.\ndecode "],
    "with_asyncio.py": ["A penguin emoji.\n", "An apple emoji.\n"],
}


def test_every_script_is_listed() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SAID)


@pytest.mark.parametrize("name", SAID)
def test_a_script_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for text in SAID[name]:
        assert text in done.stdout
