// The @anthropic-ai/sdk package of npm: a stream with a picture, and its runner of tools.

import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod";
import { AGENT, BASE64, check, DONE, MODEL, run } from "./steps.mjs";

const client = new Anthropic({ baseURL: MODEL, apiKey: "none", maxRetries: 0 });
const agent = new Anthropic({ baseURL: AGENT, apiKey: "none", maxRetries: 0 });

await run({
  async picture() {
    const content = [
      { type: "image", source: { type: "base64", media_type: "image/png", data: BASE64 } },
      { type: "text", text: "What is this?" },
    ];
    const stream = client.messages.stream({ model: "nano", max_tokens: 100, messages: [{ role: "user", content }] });
    check((await stream.finalText()).includes("pple"));
  },
  async tools() {
    const weather = betaZodTool({
      name: "weather", description: "The weather of a place.", inputSchema: z.object({ city: z.string(), days: z.number() }),
      run: () => "rain",
    });
    const found = await agent.beta.messages.toolRunner({
      model: "nano", max_tokens: 2000, messages: [{ role: "user", content: "Weather?" }], tools: [weather],
      thinking: { type: "enabled", budget_tokens: 1024 },
    });
    check(found.content.at(-1).text === DONE, found);
  },
});
