"""`finetune` on nano: against a plain loop of transformers and peft, resuming, processes, and what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_kit import SHORT, file_digest, losses, plain_losses, train, updates

from pocketvlm import load
from pocketvlm.api.finetuning import finetune
from pocketvlm.api.quantizing import quantize_model
from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.adapters.base import sample_of
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.model import expected_tensors

pytestmark = pytest.mark.train
DataMaker = Callable[..., Path]
AUTO = 30  # matrices of nano's language model


@pytest.mark.parametrize("targets", ["auto", "all"])
def test_the_loss_of_each_step_is_that_of_a_plain_loop(make_data: DataMaker, tmp_path: Path, targets: str) -> None:
    data, options = make_data(7), {**SHORT, "dropout": 0.0}
    result = train(data, tmp_path / "out", dropout=0.0, targets=targets)
    ours, plain = losses(tmp_path / "out"), plain_losses(embedded_directory(), data, targets, options)
    assert len(ours) == len(plain) == result.steps == 6
    # Rounding differs: batches, padding, and with frozen towers the features of the native engine.
    assert np.allclose(ours, plain, rtol=2e-3), (ours, plain)
    assert abs(plain[-1] - plain[0]) > 0.05 * plain[0]


def test_batches_of_any_size_have_the_same_gradient(make_data: DataMaker, tmp_path: Path) -> None:
    """Padding on the right changes nothing: neither attention nor DeltaNet reads it."""
    data = make_data(8)
    found = []
    for batch, accumulate in ((1, 8), (4, 2), (8, 1)):
        out = tmp_path / f"out{batch}"
        train(data, out, batch=batch, accumulate=accumulate, dropout=0.0)
        entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        found.append([(entry["loss"], entry["grad_norm"]) for entry in entries])
    assert len(found[0]) == 3
    for other in found[1:]:
        assert np.allclose(other, found[0], rtol=1e-3)


def test_an_interrupted_run_that_resumes_has_the_bits_of_one_that_was_not(make_data: DataMaker, tmp_path: Path) -> None:
    data, evaluation = make_data(7), make_data(3, "eval")
    options = {"eval": evaluation, "eval_every": 2}
    train(data, tmp_path / "whole", **options)

    def interrupt(report: Any) -> None:
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"step 3 is saved in .*parts\.partial: continue with resume=True"):
        train(data, tmp_path / "parts", report=interrupt, **options)
    assert not (tmp_path / "parts").exists()
    with pytest.raises(
        OptionError, match=r"parts\.partial: holds an unfinished run of 3 steps: continue it with resume=True"
    ):
        train(data, tmp_path / "parts", **options)
    for name, value, message in (
        ("lr", 1e-3, r"resume=True: the run in .* began with lr=0\.003, and this one is with lr=0\.001: give the same"),
        ("downsample_mode", "4x", "began without downsample_mode, and this one is with downsample_mode='4x'"),
        ("rank", 8, "began with rank=4, and this one is with rank=8"),
    ):
        with pytest.raises(OptionError, match=message):
            train(data, tmp_path / "parts", resume=True, **{**options, name: value})
    with pytest.raises(OptionError, match="resume=True: the training data differs from that with which the run in"):
        train(make_data(6, "other"), tmp_path / "parts", resume=True, **options)
    train(data, tmp_path / "parts", resume=True, **options)
    name = "adapter_model.safetensors"
    assert file_digest(tmp_path / "parts" / name) == file_digest(tmp_path / "whole" / name)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert not (tmp_path / "parts.partial").exists()


def test_a_run_killed_while_it_saves_resumes_with_the_same_bits(make_data: DataMaker, tmp_path: Path) -> None:
    data = make_data(7)
    train(data, tmp_path / "whole", save_every=2)
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nimport torch\nfrom training_kit import train\n"
        "saved, count = torch.save, []\n"
        "def killed(state, path):\n"
        "    count.append(1)\n"
        "    if len(count) == 2:\n"
        "        Path(path).write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    saved(state, path)\n"
        "torch.save = killed\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), save_every=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    out = tmp_path / "parts"
    ended = subprocess.run([sys.executable, "-c", program, str(data), str(out)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "parts.partial").glob("step-*")] == ["step-00000002"]
    train(data, out, save_every=2, resume=True)
    name = "adapter_model.safetensors"
    assert file_digest(out / name) == file_digest(tmp_path / "whole" / name)


def test_two_processes_have_the_loss_of_one(make_data: DataMaker, tmp_path: Path) -> None:
    data = make_data(8)
    train(data, tmp_path / "one", batch=2, accumulate=2, dropout=0.0)
    arguments = ["-o", str(tmp_path / "two"), "--batch", "2", "--accumulate", "1", "--epochs", "3", "--lr", "3e-3"]
    arguments += ["--rank", "4", "--alpha", "8", "--threads", "1", "--slices", "1", "--device", "cpu"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    ended = subprocess.run(
        [sys.executable, *launch, "-m", "pocketvlm", "finetune", "nano", str(data), *arguments],
        env={**os.environ, "POCKETVLM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 processes" in ended.stderr
    assert ended.stdout.count("written") == 1
    assert np.allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


def test_the_adapter_is_pefts_and_ours(make_data: DataMaker, tmp_path: Path) -> None:
    """transformers with peft, and this package's reader, see the same updates; its options are saved."""
    import peft
    import torch
    import transformers

    out = tmp_path / "out"
    result = train(make_data(7), out, targets="all", downsample_mode="4x", use_image_id=False)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["base_model_name_or_path"] == "nano"  # as it was given, not where the files lie
    written = "".join(path.read_text() for path in out.iterdir() if path.suffix in (".json", ".jsonl"))
    assert str(embedded_directory()) not in written
    assert str(tmp_path) not in written
    settings = json.loads((out / "pocketvlm.json").read_text())
    assert settings["options"] == {
        "downsample_mode": "4x",
        "max_slice_nums": 1,
        "use_image_id": False,
    }
    assert settings["base"]["model"] == "nano"
    base = open_checkpoint(embedded_directory())
    assert settings["base"]["sample"] == sample_of(base.tensors(expected_tensors(base.model)))
    training = json.loads((out / "training.json").read_text())
    assert training["matrices"] == result.matrices == AUTO + 44
    shapes = expected_tensors(open_checkpoint(embedded_directory()).model)
    adapter = read_adapter(out, shapes)
    assert len(adapter.updates) == result.matrices
    network = transformers.MiniCPMV4_6ForConditionalGeneration.from_pretrained(
        embedded_directory(), dtype=torch.float32
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(network, out).merge_and_unload().state_dict()
    for name, update in adapter.updates.items():
        change = merged[name].numpy() - before[name].numpy()
        assert np.allclose(change, update.scale * update.b @ update.a, atol=1e-5), name
        assert np.abs(change).max() > 0 or "vit_merger" in name, name  # which does not run in 4x


def test_a_better_step_than_the_last_is_the_result(make_data: DataMaker, tmp_path: Path) -> None:
    """With a learning rate that spoils the weights, the evaluation finds the best step; the last one is there too."""
    out = tmp_path / "out"
    result = train(make_data(7), out, lr=0.3, warmup=0.5, eval=make_data(3, "eval"), eval_every=1)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    evaluated = {each["step"]: each["eval_loss"] for each in entries if "eval_loss" in each}
    assert list(evaluated) == list(range(7))
    del evaluated[0]  # before the first step
    assert result.step == min(evaluated, key=lambda step: evaluated[step]) < 6
    assert result.eval_loss == evaluated[result.step]
    assert (out / "last" / "adapter_config.json").exists()
    assert any((updates(out)[name] != values).any() for name, values in updates(out / "last").items())


def test_all_weights_become_a_checkpoint(make_data: DataMaker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = train(make_data(7), out, method="full", lr=1e-3, epochs=8)
    assert np.mean(losses(out)[-2:]) < 0.7 * np.mean(losses(out)[:2])
    assert result.matrices == 0
    assert result.parameters > 1_000_000
    with load(out, threads=1, cache=False) as model:
        assert model.ask("Where?", temperature=0, max_tokens=4).text
    before, after = open_checkpoint(embedded_directory()), open_checkpoint(out)
    shapes = expected_tensors(before.model)
    changed = {
        name
        for name, tensor in after.tensors(shapes).items()
        if (tensor.dequantize() != before.tensors(shapes)[name].dequantize()).any()
    }
    assert changed
    assert all(name.startswith("model.language_model.") for name in changed)


def test_a_quantized_base_is_refused_with_the_way_out(make_data: DataMaker, tmp_path: Path) -> None:
    base = tmp_path / "int8"
    quantize_model("nano", base, scheme="int8", method="rtn", threads=1)
    with pytest.raises(CheckpointError, match=r"is quantized .*: give the 16-bit checkpoint, or `pocketvlm convert"):
        finetune(base, make_data(4), tmp_path / "out", **SHORT)
    assert not (tmp_path / "out.partial").exists()


def test_bfloat16_weights_train_too(make_data: DataMaker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(make_data(7), out, dtype="bf16", epochs=8)
    assert np.mean(losses(out)[-2:]) < 0.7 * np.mean(losses(out)[:2])
    assert all(values.dtype == np.float32 for values in updates(out).values())
