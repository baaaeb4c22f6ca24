"""Asks one question about one image and prints the memory that is resident then, in bytes.

    python benchmarks/comparison/resident.py CHECKPOINT VmRSS --threads 2

int4 weights (int8 in the vision tower) out of the packed cache: mapped pages count as well as the process's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import pocketvlm


def main() -> None:
    """Load, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("field", choices=["VmRSS", "VmHWM"], help="what is resident now, or was at most")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model = pocketvlm.load(options.checkpoint, weights="int4", threads=options.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    model.ask("What is this?", images=[pixels], temperature=0, max_tokens=4, ignore_eos=True)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status[options.field].split()[0]) * 1024)


if __name__ == "__main__":
    main()
