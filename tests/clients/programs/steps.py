"""Helpers of the programs for Python's clients: addresses, a picture, and steps that are all run and then reported."""

from __future__ import annotations

import asyncio
import base64
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

MODEL = os.environ["MODEL_SERVER"]  # the real model answers here
AGENT = os.environ["AGENT_SERVER"]  # here every offered function is called once; then comes "It is done."
PICTURE = Path(os.environ["PICTURE"])
BASE64 = base64.b64encode(PICTURE.read_bytes()).decode()
DATA_URI = f"data:image/png;base64,{BASE64}"
DONE = "It is done."


class Weather(BaseModel):
    """The weather of a place. All values come from lists, so that the small model ends its answers."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


_steps: list[Callable[[], object]] = []


def step(function: Callable[[], object]) -> Callable[[], object]:
    """Register a step, which may be a coroutine function."""
    _steps.append(function)
    return function


def run() -> None:
    """Run all steps; exit with 1 if one of them failed."""
    failed = 0
    for function in _steps:
        try:
            found = function()
            if inspect.iscoroutine(found):
                asyncio.run(found)
            print(f"ok {function.__name__}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED {function.__name__}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            traceback.print_exc()
    sys.exit(failed > 0)
