// The openai package of npm: parsed answers, and its runner of tools.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { AGENT, check, DATA_URI, DONE, MODEL, run } from "./steps.mjs";

const client = new OpenAI({ baseURL: `${MODEL}/v1`, apiKey: "none", maxRetries: 0 });
const agent = new OpenAI({ baseURL: `${AGENT}/v1`, apiKey: "none", maxRetries: 0 });
const place = z.object({ city: z.enum(["Paris", "Rome"]) });
const weather = z.object({ city: z.string(), days: z.number() });

await run({
  async picture() {
    const content = [
      { type: "text", text: "What is this?" },
      { type: "image_url", image_url: { url: DATA_URI, detail: "auto" } },
    ];
    const stream = client.chat.completions.stream({ model: "nano", messages: [{ role: "user", content }] });
    check((await stream.finalContent()).includes("pple"));
  },
  async schema() {
    const found = await client.chat.completions.parse({
      model: "nano", messages: [{ role: "user", content: "Paris" }], response_format: zodResponseFormat(place, "place"),
    });
    check(found.choices[0].message.parsed.city, found);
  },
  async responses_schema() {
    const found = await client.responses.parse({
      model: "nano", input: "Paris", text: { format: zodTextFormat(place, "place") },
    });
    check(found.output_parsed.city, found);
  },
  async tools() {
    const found = agent.chat.completions.runTools({
      model: "nano", messages: [{ role: "user", content: "Weather?" }],
      tools: [zodFunction({ name: "weather", parameters: weather, function: () => "rain" })],
    });
    check((await found.finalContent()) === DONE);
  },
  async streamed_tools() {
    const found = agent.chat.completions.runTools({
      stream: true, model: "nano", messages: [{ role: "user", content: "Weather?" }],
      tools: [zodFunction({ name: "weather", parameters: weather, function: () => "rain" })],
    });
    check((await found.finalContent()) === DONE);
  },
});
