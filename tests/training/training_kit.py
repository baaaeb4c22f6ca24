"""Short runs of `finetune` on nano, and what they write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from pocketvlm.api import processor_for
from pocketvlm.api.finetuning import FinetuneResult, finetune
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.train.data import read_dataset
from pocketvlm.train.examples import ExampleMaker
from pocketvlm.train.schedule import Schedule
from pocketvlm.train.targets import choose_targets

# Two steps an epoch of seven samples, in one thread.
SHORT: dict[str, Any] = {
    "batch": 2,
    "accumulate": 2,
    "epochs": 3,
    "lr": 3e-3,
    "rank": 4,
    "alpha": 8.0,
    "dropout": 0.1,
    "threads": 1,
    "max_slice_nums": 1,
    "device": "cpu",
}


def train(data: Path, out: Path, model: str | Path = "nano", **options: Any) -> FinetuneResult:
    """Train nano, or another model, for some steps; features are cached next to the data."""
    return finetune(model, data, out, cache_dir=data.parent / "cache", **{**SHORT, **options})


def plain_losses(
    model: Path, data: Path, targets: str, options: dict[str, Any], media: dict[str, Any] | None = None
) -> list[float]:
    """Losses of a plain loop: transformers' forward and peft, one sample at a time. media: options of the examples."""
    import peft
    import torch
    import transformers
    from oracle import reference_inputs

    torch.set_num_threads(1)
    checkpoint = open_checkpoint(model)
    make = ExampleMaker(processor_for(checkpoint), options={"max_slice_nums": 1, **(media or {})})
    examples = [make(sample) for sample in read_dataset(data).samples]
    network = getattr(transformers, checkpoint.model.family.architecture).from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    modules = list(choose_targets(checkpoint.model, targets))
    network = peft.get_peft_model(
        network, peft.LoraConfig(r=options["rank"], lora_alpha=options["alpha"], target_modules=modules)
    )
    weights = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options["lr"], weight_decay=0.0)
    schedule = Schedule(len(examples), 4, options["epochs"], options["lr"], 0.05, 0)
    found = []
    for step in range(schedule.steps):
        chosen = [examples[i] for i in schedule.indices(step)]
        count = sum(int((example.labels != -100).sum()) for example in chosen)
        total = 0.0
        for example in chosen:
            inputs = reference_inputs(replace(example.prompt, ids=example.ids), checkpoint.model)
            logits = network(**inputs).logits[0]
            labels = torch.from_numpy(example.labels.astype(np.int64))
            loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum") / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = schedule.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        found.append(total)
    return found


def losses(folder: Path) -> list[float]:
    """The loss of each step in a log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def updates(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of an adapter by peft's names."""
    return dict(load_file(folder / "adapter_model.safetensors"))


def file_digest(path: Path) -> str:
    """A digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
