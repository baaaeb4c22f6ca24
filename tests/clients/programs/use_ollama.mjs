// The ollama package of npm.

import { Ollama } from "ollama";
import { AGENT, BASE64, check, DONE, MODEL, run } from "./steps.mjs";

const client = new Ollama({ host: MODEL });
const agent = new Ollama({ host: AGENT });
const tool = {
  type: "function",
  function: {
    name: "weather", description: "The weather of a place.",
    parameters: {
      type: "object", required: ["city"],
      properties: { city: { type: "string", description: "where" }, days: { type: "integer", description: "for how long" } },
    },
  },
};

await run({
  async picture() {
    const messages = [{ role: "user", content: "What is this?", images: [BASE64] }];
    let text = "";
    for await (const part of await client.chat({ model: "nano", messages, stream: true, keep_alive: "5m" })) {
      text += part.message.content;
    }
    check(text.includes("pple"), text);
  },
  async tools() {
    const messages = [{ role: "user", content: "Weather?" }];
    const first = await agent.chat({ model: "nano", messages, tools: [tool], think: true });
    check(first.message.tool_calls[0].function.arguments.city === "Paris", first);
    messages.push(first.message, { role: "tool", tool_name: "weather", content: "rain" });
    const last = await agent.chat({ model: "nano", messages, tools: [tool] });
    check(last.message.content === DONE, last);
  },
  async schema() {
    const format = {
      type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"], additionalProperties: false,
    };
    const found = await client.chat({ model: "nano", messages: [{ role: "user", content: "Paris" }], format });
    check(JSON.parse(found.message.content).city, found);
  },
  async models() {
    check((await client.list()).models.length === 1);
    check((await client.ps()).models.length === 1);
    check((await client.show({ model: "nano" })).capabilities.includes("vision"));
    check((await client.version()).version);
  },
});
