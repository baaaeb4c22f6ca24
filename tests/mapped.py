"""What of a mapped file is resident, on Linux."""

from __future__ import annotations

from pathlib import Path


def resident(path: Path) -> int:
    """Bytes of a mapped file that count as this process's memory."""
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(str(path))]
    sizes = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    return sum(int(size.split()[1]) * 1024 for size in sizes)
