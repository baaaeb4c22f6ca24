"""Inside an event loop: one answer as it comes, and several at the same time."""

import asyncio
from pathlib import Path

import pocketvlm

HERE = Path(__file__).parent


async def main() -> None:
    with pocketvlm.load("nano") as model:
        async for chunk in model.astream("What is this?", [HERE / "penguin.png"], temperature=0, max_tokens=16):
            print(chunk.text, end="", flush=True)
        print()
        asked = [
            model.aask("What is this?", [HERE / name], temperature=0, max_tokens=16)
            for name in ("apple.png", "open.png")
        ]
        for result in await asyncio.gather(*asked):
            print(result.text)


asyncio.run(main())
