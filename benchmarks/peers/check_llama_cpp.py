"""Compares llama.cpp on the exported files with the native backend on the weights that they were made of.

    python benchmarks/peers/check_llama_cpp.py DIRECTORY --text F32 BF16 Q4_K_M --packages FOLDER_OF_LLAMA_CPP

Prints the relative error and the cosine of the logits of a random prompt for each kind of text file, and of the
features of a random view for each mmproj file. A correct export differs only by rounding. The exit status is 1 if F32
logits or features differ by more. Other kinds are only printed, because random weights enlarge their rounding.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from inputs import PATCH, VIEW, random_patches, view_tokens
from llama_cpp_files import MMPROJ_KINDS, TEXT_KINDS, export
from numpy.typing import NDArray
from process import Worker

from pocketvlm.backends import native
from pocketvlm.backends.options import choose
from pocketvlm.bench.shape import RELEASED, random_tensors, released_config
from pocketvlm.engine import Engine
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt, View

TOKENS, SEED = 40, 7
SIDE = VIEW // PATCH
LIMIT = 1e-2
Floats = NDArray[np.float32]


def our_features(engine: Engine, mode: str) -> Floats:
    """Features of the image that the worker makes of SEED."""
    view = View(random_patches(SEED), SIDE, SIDE, mode, 0, view_tokens(mode), digest="")  # type: ignore[arg-type]
    return engine.model.backend.to_numpy(engine.runner.encode((view,))[0])


def report(what: str, theirs: Floats, ours: Floats) -> float:
    """Print how far apart they are; returns the relative error."""
    size = float(np.linalg.norm(ours))
    error = float(np.linalg.norm(theirs - ours)) / size
    cosine = float(np.vdot(theirs, ours)) / size / float(np.linalg.norm(theirs))
    print(f"{what}: relative error {error:.2e}, cosine {cosine:.6f}", flush=True)
    return error


def main() -> None:
    """Export, run both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of the exported files")
    parser.add_argument("--text", nargs="*", choices=list(TEXT_KINDS), default=["F32"])
    parser.add_argument("--mmproj", nargs="*", choices=MMPROJ_KINDS, default=["BF16"])
    parser.add_argument("--packages", nargs="*", type=Path, default=[], help="folders for the worker's module search")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sys.path += [str(path) for path in options.packages]
    config = released_config()
    tensors = random_tensors(config)
    files = export(tensors, RELEASED, options.directory, options.text, options.mmproj, options.threads)
    ids = np.random.default_rng(SEED).integers(0, config.image_token_id, TOKENS).astype(np.int32)
    engine = Engine(
        MiniCPMV(config, native.create(options.threads, scheme=choose("native", precision="exact")), tensors)
    )
    logits = engine.prompt_logits(Prompt(ids, (), (), ""))
    features = {kind: our_features(engine, "4x" if "4x" in kind else "16x") for kind in options.mmproj}
    del engine, tensors
    judged = []
    common = ["--threads", str(options.threads), "--scratch", str(options.directory)]
    script = Path(__file__).with_name("llama_cpp_worker.py")
    any_text = next(path for name, path in files.items() if name.startswith("text"))

    def theirs(arguments: list[str], do: str, **values: object) -> Floats:
        with Worker(script, [*arguments, *common], options.packages) as worker:
            path = Path(worker(do, **values)["path"])
        saved: Floats = np.load(path)
        path.unlink()
        return saved

    for kind in options.text:
        found = theirs(["--text", str(files[f"text {kind}"])], "logits", ids=ids.tolist(), all=True)
        error = report(f"logits, {kind}", found, logits)
        judged += [error] if kind == "F32" else []
    for kind in options.mmproj:
        arguments = ["--text", str(any_text), "--mmproj", str(files[f"mmproj {kind}"])]
        mode = "4x" if "4x" in kind else "16x"
        found = theirs(arguments, "vision", width=VIEW, height=VIEW, mode=mode, seed=SEED, save=True)
        judged.append(report(f"features, {kind}", found, features[kind]))
    sys.exit(any(error > LIMIT for error in judged))


if __name__ == "__main__":
    main()
