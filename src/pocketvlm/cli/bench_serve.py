"""The command `pocketvlm bench serve` measures any server with OpenAI's interface."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pocketvlm.cli import options
from pocketvlm.cli.options import FLAG, OUTPUT, option
from pocketvlm.errors import AddressError

EPILOG = """
Examples:

  pocketvlm bench serve --url http://127.0.0.1:8000/v1
  pocketvlm bench serve --max-concurrency 1,4,8,16 --ignore-eos --plot curves.png
  pocketvlm bench serve --request-rate 2 --images 1 --image-size 448x448 --goodput ttft:2000 --goodput tpot:100

Options and the names in results are those of `vllm bench serve`. Two short requests come first: the server's usage \
tells what words cost in tokens. A key can also be given as POCKETVLM_API_KEY. The last line of the output is one JSON \
object; a sweep's has its results under "runs".
"""

TARGET, REQUESTS, LOAD, MEASURE = "Server", "Requests", "Load", "Figures"


def bench_serve(
    url: Annotated[
        str, option("--url", "URL", panel=TARGET, help="Where the interface is, such as http://HOST:PORT/v1.")
    ] = "http://127.0.0.1:8000/v1",
    model: Annotated[
        str | None, option("--model", "NAME", panel=TARGET, help="Model to ask for. Default: the first that it lists.")
    ] = None,
    api_key: Annotated[
        str | None,
        option(
            *("--api-key", "KEY"),
            panel=TARGET,
            help="Key to send along.",
            envvar=["POCKETVLM_BENCH_SERVE_API_KEY", "POCKETVLM_API_KEY"],
        ),
    ] = None,
    endpoint: Annotated[
        Literal["chat", "completions"],
        option("--endpoint", "chat|completions", panel=TARGET, help="/chat/completions or /completions."),
    ] = "chat",
    num_prompts: Annotated[
        int, option("--num-prompts", "N", panel=LOAD, help="Requests of each run. Default: 32.")
    ] = 32,
    request_rate: Annotated[
        float, option("--request-rate", "R", panel=LOAD, help="Requests a second; inf, the default: all at once.")
    ] = math.inf,
    burstiness: Annotated[
        float,
        option("--burstiness", "B", panel=LOAD, help="1, the default: a Poisson process. Less: bursts. More: even."),
    ] = 1.0,
    max_concurrency: Annotated[
        str | None,
        option(
            "--max-concurrency", "N[,N...]", panel=LOAD, help="Requests at a time at most; several: a run for each."
        ),
    ] = None,
    num_warmups: Annotated[
        int, option("--num-warmups", "N", panel=LOAD, help="Requests before each run that do not count.")
    ] = 0,
    random_input_len: Annotated[
        int, option("--random-input-len", "N", panel=REQUESTS, help="Tokens of random words. Default: 128.")
    ] = 128,
    random_output_len: Annotated[
        int, option("--random-output-len", "N", panel=REQUESTS, help="Maximum tokens of an answer. Default: 128.")
    ] = 128,
    random_range_ratio: Annotated[
        float,
        option("--random-range-ratio", "R", panel=REQUESTS, help="Lengths vary: from 1-R to 1+R times what is given."),
    ] = 0.0,
    random_prefix_len: Annotated[
        int, option("--random-prefix-len", "N", panel=REQUESTS, help="Tokens that all prompts begin with, besides.")
    ] = 0,
    images: Annotated[int, option("--images", "N", panel=REQUESTS, help="Random images in each request.")] = 0,
    image_size: Annotated[
        str, option("--image-size", "WxH", panel=REQUESTS, help="Their width and height in pixels.")
    ] = "448x448",
    ignore_eos: Annotated[
        bool, option("--ignore-eos", FLAG, panel=REQUESTS, help="Answers go on to their full length.")
    ] = False,
    temperature: Annotated[
        float | None, option("--temperature", "T", panel=REQUESTS, help="Sampling. Default: the server's.")
    ] = None,
    extra_body: Annotated[
        str | None,
        option("--extra-body", "JSON", panel=REQUESTS, help="More fields of each request, as a JSON object."),
    ] = None,
    seed: Annotated[int, option("--seed", "N", panel=REQUESTS, help="Of prompts and of arrivals.")] = 0,
    goodput: Annotated[
        list[str] | None,
        option(
            *("--goodput", "METRIC:MS"),
            panel=MEASURE,
            help="Count requests that keep this limit: ttft, tpot or e2el in milliseconds. Repeatable.",
        ),
    ] = None,
    percentile_metrics: Annotated[
        str,
        option("--percentile-metrics", "A[,B...]", panel=MEASURE, help="ttft, tpot, itl, e2el, client_queue_time."),
    ] = "ttft,tpot,itl,e2el",
    metric_percentiles: Annotated[
        str, option("--metric-percentiles", "P[,P...]", panel=MEASURE, help="Percentiles of each of them.")
    ] = "99",
    save_result: Annotated[
        bool, option("--save-result", FLAG, panel=OUTPUT, help="Keep each run in a JSON file of its own.")
    ] = False,
    save_detailed: Annotated[
        bool, option("--save-detailed", FLAG, panel=OUTPUT, help="Files also have what single requests did.")
    ] = False,
    result_dir: Annotated[
        str, option("--result-dir", "DIR", panel=OUTPUT, help="Where --save-result puts them.")
    ] = ".",
    output_file: Annotated[
        str | None,
        option("--output-file", "--result-filename", "FILE", panel=OUTPUT, help="Keep all runs in this JSON file."),
    ] = None,
    plot: Annotated[
        str | None, option("--plot", "FILE", panel=OUTPUT, help="Draw throughput and times (needs matplotlib).")
    ] = None,
    as_json: Annotated[bool, option("--json", FLAG, panel=OUTPUT, help="Only the JSON object.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Send requests to a server and time its answers: first token, tokens after it, throughput, percentiles, goodput.

    Prompts are random words, all different, so that no prefix cache helps; --random-prefix-len gives them a common
    prefix. Failed requests are counted and reported; the run continues.
    """
    import asyncio
    import json
    from pathlib import Path

    from pocketvlm.bench.load import plan, result_files
    from pocketvlm.bench.load import plot as drawing
    from pocketvlm.bench.load.page import page
    from pocketvlm.bench.load.prompts import Sizes
    from pocketvlm.bench.load.run import measure
    from pocketvlm.cli.terminal import Activity, printable

    width, height = plan.size(image_size)
    load = plan.Load(
        url=url,
        model=model,
        endpoint=endpoint,
        num_prompts=num_prompts,
        request_rate=request_rate,
        burstiness=burstiness,
        max_concurrency=plan.concurrencies(max_concurrency),
        sizes=Sizes(random_input_len, random_output_len, random_range_ratio, random_prefix_len, images, width, height),
        ignore_eos=ignore_eos,
        temperature=temperature,
        extra_body=options.json_object(extra_body, "--extra-body", '{"top_k": 1}'),
        seed=seed,
        num_warmups=num_warmups,
        goodput=plan.objectives(goodput or ()),
        metrics=plan.metrics(percentile_metrics),
        percentiles=plan.percentiles(metric_percentiles),
        api_key=api_key,
    )
    if plot is not None:
        drawing.check()
    with Activity(quiet) as activity:
        results = asyncio.run(measure(load, activity.say))
    if save_result:
        result_files.write(results, Path(result_dir), save_detailed)
    if output_file is not None:
        result_files.write_one(results, Path(output_file), save_detailed)
    if plot is not None:
        drawing.draw(results, Path(plot))
    if not as_json:
        print(printable(page(load, results)))
    print(json.dumps(result_files.together([result_files.brief(result) for result in results])))
    if not any(result["completed"] for result in results):
        raise AddressError(f"no request was answered: {results[0]['first_errors'][0]}")
