"""`python -m pocketvlm` runs the command `pocketvlm`."""

from __future__ import annotations

import sys

from pocketvlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
