"""Makes the engines of the comparison when a row needs them, and says which peers are missing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from checkpoint import digest, write_checkpoint
from process import WorkerError

import pocketvlm
from comparison.goals import NO_AMX
from comparison.llama import GET, GET_AVX2, GET_NO_AMX, Llama, find_files
from comparison.machines import has_amx, machine
from comparison.openvino import OpenVINO
from comparison.ours import Ours
from comparison.rows import MissingError, Timer
from pocketvlm.bench.shape import random_tensors, released_config

MAIN_FILES, DENSE_FILES = "Q4_K_M BF16 BF16-4x", "BF16 BF16 BF16-4x"
AVX2_FILES = "Q4_K_M BF16"
DENSE = ("F32", "BF16")


class Engines:
    """The engines; a peer that is missing is None, and `complain` has said how to get it."""

    def __init__(self, options: argparse.Namespace, complain: Callable[[str], None]) -> None:
        self.options, self.complain = options, complain
        self.config, self.machine = released_config(), machine()

    @cached_property
    def tensors(self) -> Any:
        """The weights of every engine."""
        return random_tensors(self.config)

    def engine(self, weights: str, precision: str = "fast") -> Ours:
        """Ours, with weights of a type."""
        return Ours.of(self.config, self.tensors, self.options.threads, weights, precision)

    @cached_property
    def int4(self) -> Ours:
        """The engine of most rows."""
        found = self.engine("int4")
        self.machine |= found.ops.describe()
        return found

    @cached_property
    def reference(self) -> Any:
        """transformers in bfloat16."""
        if self.options.no_transformers:
            return None
        try:
            import torch

            from comparison.hub_classes import Reference
        except ImportError as error:
            self.complain(f"transformers is left out ({error}): `pip install -e '.[dev]'` has the version it takes")
            return None
        found = Reference(self.config, self.tensors, self.options.threads, torch.bfloat16)
        self.machine |= found.versions()
        return found

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files for llama.cpp. Raises MissingError."""
        options = self.options
        return find_files(self.tensors, options.gguf, options.llama_packages, options.threads)

    @cached_property
    def llama(self) -> Llama | None:
        """llama.cpp built for this processor."""
        if self.options.no_llama:
            return None
        return self._llama(self.options.llama_packages, DENSE_FILES if has_amx() else MAIN_FILES, "llama.cpp", GET)

    @cached_property
    def runs_quantized(self) -> bool:
        """Whether that build runs quantized files: where the processor has AMX it may crash in its first product."""
        if self.llama is None or not has_amx():
            return self.llama is not None
        try:
            self.llama.ask("Q4_K_M", "decode", depth=32, tokens=1)
        except WorkerError as error:
            self.complain(f"llama.cpp built for this processor is left out with quantized files: {error}")
            return False
        finally:
            self.llama.stop("Q4_K_M")
        return True

    @cached_property
    def without_amx(self) -> Llama | None:
        """llama.cpp built for this processor without AMX, where the processor has it."""
        options = self.options
        if options.no_llama or not has_amx():
            return None
        if not options.no_amx_packages:
            self.complain(f"the build of llama.cpp without AMX is left out: {GET_NO_AMX}")
            return None
        packages = [*options.no_amx_packages, *options.llama_packages]
        return self._llama(packages, MAIN_FILES, f"llama.cpp{NO_AMX}", GET_NO_AMX)

    @cached_property
    def avx2(self) -> Llama | None:
        """llama.cpp built for AVX2."""
        from pocketvlm import _native

        if self.options.no_llama or "avx2" not in _native.usable_isas():
            return None
        if not self.options.avx2_packages:
            self.complain(f"the AVX2 build of llama.cpp is left out: {GET_AVX2}")
            return None
        # After the build on the path: its other requirements, which may be installed elsewhere.
        packages = [*self.options.avx2_packages, *self.options.llama_packages]
        return self._llama(packages, AVX2_FILES, "llama.cpp AVX2", GET_AVX2)

    @cached_property
    def openvino(self) -> OpenVINO | None:
        """The vision tower in OpenVINO."""
        if self.options.no_openvino:
            return None
        try:
            found = OpenVINO(self.tensors, self.options.gguf, self.options.threads)
            self.machine |= found.versions()
        except MissingError as error:
            self.complain(str(error))
            return None
        return found

    def _llama(self, packages: list[Path], kinds: str, name: str, get: str) -> Llama | None:
        try:
            found = Llama(self.files, packages, self.options.threads, self.options.gguf)
            info = found.info(kinds, get)
        except MissingError as error:
            self.complain(str(error))
            return None
        self.machine |= {name: f"{info['llama_cpp']} (llama-cpp-python {info['llama_cpp_python']})"}
        self.machine |= {f"{name} instruction sets": " ".join(_features(info["system"]))}
        return found

    @property
    def vision_files(self) -> str:
        """The files with which llama.cpp built for this processor encodes images."""
        return MAIN_FILES if self.runs_quantized else DENSE_FILES

    def quantized_llama(self) -> Llama | None:
        """The build that runs quantized files."""
        return self.llama if self.runs_quantized else self.without_amx

    def llama_columns(self, kinds: str, name: str, do: str, shared: int = 1, **values: object) -> dict[str, Timer]:
        """The columns of llama.cpp in a row, by name: of both builds if one is without AMX."""
        found = {}
        dense = kinds.partition(" ")[0] in DENSE
        if self.llama and (dense or self.runs_quantized):
            found[name] = self.llama.seconds(kinds, do, shared, **values)
        if not dense and self.without_amx:
            found[f"{name}{NO_AMX}"] = self.without_amx.seconds(kinds, do, shared, **values)
        return found

    def checkpoint(self) -> Path:
        """A checkpoint directory with these weights."""
        nano = Path(pocketvlm.__file__).parent / "nano"
        return write_checkpoint(self.tensors, nano, self.options.gguf / f"checkpoint-{digest(self.tensors)}")

    def stop(self, *kinds: str) -> None:
        """End the processes of these files, or of all."""
        started = [self.__dict__.get(name) for name in ("llama", "without_amx", "avx2")]
        for peer in filter(None, started):
            for kind in kinds or (None,):
                peer.stop(kind)
        if not kinds and self.__dict__.get("openvino"):
            self.__dict__["openvino"].stop()


def _features(system: str) -> list[str]:
    """The instruction sets that llama.cpp says it uses."""
    return [part.split("=")[0].strip() for part in system.replace(":", "|").split("|") if part.strip().endswith("= 1")]
