"""A script for vLLM's offline class; only the import is another."""

from pathlib import Path

from pocketvlm import LLM, SamplingParams

HERE = Path(__file__).parent


def conversation(picture: str, question: str) -> list[dict[str, object]]:
    image = {"type": "image_url", "image_url": {"url": (HERE / picture).as_uri()}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question}]}]


llm = LLM(model="nano", trust_remote_code=True, max_model_len=2048, limit_mm_per_prompt={"image": 1})
params = SamplingParams(temperature=0.0, top_k=-1, max_tokens=16, stop=["\n\n"])
outputs = llm.chat(
    [conversation("penguin.png", "What is this?"), conversation("stars.png", "How many stars are there?")],
    sampling_params=params,
    use_tqdm=False,
)
for output in outputs:
    print(output.outputs[0].text)
