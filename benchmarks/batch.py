"""Times a batch job against its stages, each measured alone, and live requests with and without a batch.

    python benchmarks/batch.py                          # nano
    python benchmarks/batch.py --released --count 16    # random weights of the released shape, in build/peers
    python benchmarks/batch.py --model DIR --count 24   # another checkpoint
    python benchmarks/batch.py --live                   # a server with nano: latency of live requests

The job answers one question about each of many different JPEG files. Its cost is cores x time. The stages alone:
reading, decoding and cutting the pictures on one thread; vision and prefill in requests for one token; decode in steps
in which `--concurrency` sequences add a token each. Their core-seconds are summed: threads x time. The goal is a share
of at least 95 %. The processor time of the job, as a share of cores x time, says how much of them was idle. Close
everything else.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers.checkpoint import digest, write_checkpoint

import pocketvlm
from pocketvlm.bench.shape import random_tensors, released_config
from pocketvlm.engine.request import Request
from pocketvlm.interfaces.preparation import served_name
from pocketvlm.jobs.output import Output
from pocketvlm.jobs.run import Work, run
from pocketvlm.jobs.sources.bodies import Defaults
from pocketvlm.jobs.sources.pictures import Pictures
from pocketvlm.jobs.sources.source import survey
from pocketvlm.types import Prompt, SamplingParams

BUILD = Path(__file__).resolve().parent.parent / "build" / "peers"
QUESTION = "Describe this image."


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--released", action="store_true", help="random weights of the released shape, in int4")
    parser.add_argument("--weights", help="default int4 with --released, else auto")
    parser.add_argument("--count", type=int, default=192, help="pictures (default 192)")
    parser.add_argument("--side", type=int, nargs=2, default=[640, 480], help="their size in pixels (default 640 480)")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer (default 32)")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="in which decode alone is timed (default 3)")
    parser.add_argument("--workers", type=int, nargs="*", default=[2], help="threads that decode pictures (default 2)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--live", action="store_true", help="live requests during a batch instead")
    options = parser.parse_args()
    options.weights = options.weights or ("int4" if options.released else "auto")
    if options.released:
        tensors = random_tensors(released_config())
        nano = Path(pocketvlm.__file__).parent / "nano"
        options.model = str(write_checkpoint(tensors, nano, BUILD / f"checkpoint-{digest(tensors)}"))
    return options


def write_pictures(folder: Path, count: int, width: int, height: int) -> None:
    """Different JPEG files of smooth noise, some tens of kilobytes each."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(
            folder / f"{number:05}.jpg", quality=90
        )


def load(options: argparse.Namespace) -> pocketvlm.Model:
    """The model, with empty caches of views and prefixes."""
    return pocketvlm.load(options.model, weights=options.weights, threads=options.threads, max_seqs=options.concurrency)


def prepare(model: pocketvlm.Model, files: list[Path]) -> tuple[list[Prompt], float]:
    """The prompts, and the seconds that one thread needs for them."""
    began = time.perf_counter()
    parts = [[{"type": "image", "path": str(file)}, {"type": "text", "text": QUESTION}] for file in files]
    prompts = [model.processor([{"role": "user", "content": content}]) for content in parts]
    return prompts, time.perf_counter() - began


def alone(options: argparse.Namespace, files: list[Path]) -> dict[str, float]:
    """Core-seconds of each stage."""
    with load(options) as model:
        engine, threads = model.engine, options.threads
        prepare(model, files[:2])
        prompts, seconds = prepare(model, files)
        found = {"read, decode, resize": seconds}
        for prompt in prompts[:2]:  # allocates memory
            engine.add(Request(prompt, SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)))
        drain(engine)
        before = engine.stats()
        first, prompts = prompts[:2], prompts[2:]
        for prompt in prompts:
            engine.add(Request(prompt, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)))
            drain(engine)
        after = engine.stats()
        scale = threads * len(files) / len(prompts)
        found["vision"] = scale * (after.vision_seconds - before.vision_seconds)
        found["prefill"] = scale * (after.prefill_seconds - before.prefill_seconds)
        seconds, tokens = 0.0, 0
        group = (first + prompts)[: options.concurrency]
        for _ in range(options.rounds):
            for prompt in group:
                params = SamplingParams(max_tokens=options.tokens, temperature=0, ignore_eos=True)
                engine.add(Request(prompt, params))
            while any(sequence.prefilling for sequence in engine.sequences.values()) or engine.scheduler.waiting:
                step(engine)
            tokens -= sum(len(sequence.output) for sequence in engine.sequences.values())
            began = time.perf_counter()
            drain(engine)
            seconds += time.perf_counter() - began
            tokens += options.tokens * len(group)
        found["decode"] = threads * seconds / tokens * (options.tokens - 1) * len(files)
        return found


def step(engine: Any) -> None:
    """One step; ended requests are released."""
    for event in engine.step():
        if event.finish_reason is not None:
            engine.release(event.request_id, trim=False)


def drain(engine: Any) -> None:
    """Run what is there to its end."""
    while engine.busy:
        step(engine)


def job(options: argparse.Namespace, folder: Path, out: Path, workers: int) -> tuple[float, float, dict[str, float]]:
    """Seconds of a job on the folder, processor seconds of this process meanwhile, and seconds of its stages."""
    source = Pictures([str(folder)], QUESTION, None)
    found = survey(source)
    defaults = Defaults({"max_tokens": options.tokens, "temperature": 0, "ignore_eos": True})
    work = Work(source, found, defaults, options.concurrency, workers)
    output = Output(out, {})
    model = load(options)
    warm = model.ask("x", [str(next(folder.iterdir()))], max_tokens=2)
    assert warm.finish_reason == "length"
    before = time.process_time()
    ended = run(
        model, work, folder, lambda _: output.open(found.last), lambda _: None, names=(served_name(model.name),)
    )
    used = time.process_time() - before
    assert ended is not None
    journal, progress = ended
    assert journal.failed == 0
    output.finish(journal)
    return progress.seconds, used, progress.stages


def throughput(options: argparse.Namespace) -> None:
    """Print the stages and the job."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        write_pictures(folder, options.count, *options.side)
        files = sorted(folder.iterdir())
        stages = alone(options, files)
        whole = sum(stages.values())
        print(
            f"{Path(options.model).name}: {options.count} pictures of {options.side[0]}x{options.side[1]}, "
            f"{options.tokens} tokens"
        )
        for name, seconds in stages.items():
            print(f"  {name:<22}{seconds:8.2f} core-seconds alone")
        print(f"  {'sum':<22}{whole:8.2f}")
        for workers in options.workers:
            seconds, used, parts = job(options, folder, Path(scratch) / f"out-{workers}.jsonl", workers)
            cost = options.threads * seconds
            print(
                f"  job, {workers} workers:{cost:12.2f} = {options.threads} cores x {seconds:.2f} s, "
                f"{options.count / seconds:.1f} images/s: {whole / cost:.1%} (goal 95%); {used / cost:.0%} busy"
            )
            print("    " + ", ".join(f"{name} {value:.2f} s" for name, value in parts.items()))


def live(options: argparse.Namespace) -> None:
    """Print the latency of live requests without and with a batch, and the longest step that one may wait for."""
    import openai

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        write_pictures(folder, options.count, *options.side)
        with load(options) as model:
            prompts, _ = prepare(model, sorted(folder.iterdir())[:20])
            chunk, view = [], []
            for prompt in prompts:
                result = model.generate(prompt, max_tokens=1)
                view.append(result.timings.vision / len(prompt.views))
                chunk.append(result.timings.prefill)
        bound = statistics.median(chunk) + statistics.median(view)
        command = [sys.executable, "-m", "pocketvlm", "serve", options.model, "--port", "0", "--log", "none"]
        command += [
            "--threads",
            str(options.threads),
            "--data-dir",
            f"{scratch}/data",
            "--allowed-media-path",
            str(folder),
        ]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            url = server.stderr.readline().split(" at ")[1].split(": ")[0]
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            timed(client, 20)
            without = timed(client, 200)
            parts = [
                [
                    {"type": "image_url", "image_url": {"url": file.as_uri()}},
                    {"type": "text", "text": f"{QUESTION} {n}"},
                ]
                for n in range(20)
                for file in sorted(folder.iterdir())
            ]
            lines = [
                {
                    "custom_id": str(n),
                    "url": "/v1/chat/completions",
                    "body": {"messages": [{"role": "user", "content": each}]},
                }
                for n, each in enumerate(parts)
            ]
            text = "".join(json.dumps(each) + "\n" for each in lines).encode()
            file = client.files.create(file=("lines.jsonl", io.BytesIO(text)), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            while client.batches.retrieve(batch.id).request_counts.completed < 1:
                time.sleep(0.05)
            during = timed(client, 200)
            found = client.batches.retrieve(batch.id)
            assert found.status == "in_progress", "the batch ended before the live requests"
            for name, seconds in (("without a batch", without), ("during a batch", during)):
                quantiles = statistics.quantiles(seconds, n=20)
                print(f"live, {name}: p50 {statistics.median(seconds) * 1e3:.1f} ms, p95 {quantiles[18] * 1e3:.1f} ms")
            more = statistics.quantiles(during, n=20)[18] - statistics.quantiles(without, n=20)[18]
            print(f"p95 grew by {more * 1e3:.1f} ms; one chunk and one view take {bound * 1e3:.1f} ms")
            print(f"the batch answered {found.request_counts.completed} lines meanwhile, in the pauses")
        finally:
            server.kill()
            server.communicate()


def timed(client: Any, count: int) -> list[float]:
    """Seconds of live requests, one after the other with a pause, in which a batch goes on."""
    found = []
    for number in range(count):
        time.sleep(0.05)
        began = time.perf_counter()
        client.chat.completions.create(
            model="nano",
            messages=[{"role": "user", "content": f"hello {number}"}],
            max_tokens=8,
            extra_body={"ignore_eos": True},
        )
        found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    chosen = parse()
    (live if chosen.live else throughput)(chosen)
