"""Results are saved as one file for each run under vLLM's names, or as one file for all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketvlm.bench.load.figures import DETAILS


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the lists that have an entry for each request."""
    return {name: value for name, value in result.items() if name not in DETAILS}


def together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One JSON object: the result itself, or a sweep's under "runs"."""
    return results[0] if len(results) == 1 else {"runs": list(results)}


def write(results: Sequence[dict[str, Any]], directory: Path, detailed: bool) -> list[Path]:
    """Write a file for each run to a directory, which is created if it is missing. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for result in results:
        limit = f"-concurrency{result['max_concurrency']}" if result["max_concurrency"] is not None else ""
        model = result["model_id"].split("/")[-1]
        name = f"{result['backend']}-{float(result['request_rate'])}qps{limit}-{model}-{result['date']}.json"
        paths.append(directory / name)
        write_one([result], paths[-1], detailed)
    return paths


def write_one(results: Sequence[dict[str, Any]], path: Path, detailed: bool) -> None:
    """Write all results to one file. Raises OSError."""
    selected = results if detailed else [brief(result) for result in results]
    path.write_text(json.dumps(together(selected)) + "\n", encoding="utf-8")
