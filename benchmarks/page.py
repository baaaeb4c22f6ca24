"""This script measures the web page in Chromium: first paint, and time of the main thread for each streamed token.

`python benchmarks/page.py` needs Chromium, and Node.js as `make test-ui` does. nano is served with one thread; the
answer is scripted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"


def main() -> int:
    """Build the page and the measurement, and run it."""
    build = [sys.executable, str(WEB / "build.py")]
    subprocess.run(build, check=True)
    subprocess.run([*build, "--packages"], check=True)
    node = subprocess.run([*build, "--node"], check=True, capture_output=True, text=True).stdout.strip()
    program = shutil.which("pocketvlm", path=str(Path(sys.executable).parent)) or "pocketvlm"
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([node, os.environ.get("PATH", "")]),
        "POCKETVLM": os.environ.get("POCKETVLM", program),
    }
    tsc = ["npx", "--no-install", "tsc", "-p", "tsconfig.tests.json"]
    subprocess.run(tsc, cwd=WEB, env=variables, check=True)
    return subprocess.run(["node", "build/tests/bench/page.js"], cwd=WEB, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
