// The AI SDK through @ai-sdk/openai (both interfaces), @ai-sdk/openai-compatible and @ai-sdk/anthropic.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { AGENT, BASE64, check, DONE, MODEL, run } from "./steps.mjs";

const weather = z.object({ city: z.enum(["Paris", "Rome"]), days: z.number() });
const place = z.object({ city: z.enum(["Paris", "Rome"]) });
const tools = {
  weather: tool({ description: "The weather of a place.", inputSchema: weather, execute: async () => "rain" }),
};
const models = {
  openai_chat: (server) => createOpenAI({ baseURL: `${server}/v1`, apiKey: "none" }).chat("nano"),
  openai_responses: (server) => createOpenAI({ baseURL: `${server}/v1`, apiKey: "none" }).responses("nano"),
  compatible: (server) =>
    createOpenAICompatible({
      name: "local", baseURL: `${server}/v1`, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true,
    })("nano"),
  anthropic: (server) => createAnthropic({ baseURL: `${server}/v1`, apiKey: "none" })("nano"),
};
const content = [
  { type: "text", text: "What is this?" },
  { type: "image", image: BASE64, mediaType: "image/png" },
];

const steps = {};
for (const [name, make] of Object.entries(models)) {
  const common = { maxOutputTokens: 300, maxRetries: 0 };
  steps[`${name}_picture`] = async () => {
    const found = streamText({ ...common, model: make(MODEL), system: "Be brief.", messages: [{ role: "user", content }] });
    let text = "";
    for await (const part of found.textStream) text += part;
    check(text.includes("pple"), text);
    check((await found.usage).outputTokens > 0, await found.usage);
  };
  steps[`${name}_tools`] = async () => {
    const found = await generateText({
      ...common, model: make(AGENT), prompt: "Weather?", tools, stopWhen: stepCountIs(3),
    });
    check(found.text === DONE && found.steps.length === 2, found.steps);
  };
  steps[`${name}_required`] = async () => {
    const found = await generateText({
      ...common, model: make(MODEL), prompt: "Weather?", toolChoice: "required",
      tools: { where: tool({ description: "The place.", inputSchema: place }) },
    });
    check(found.toolCalls.length > 0, found.text);
  };
  steps[`${name}_schema`] = async () => {
    const found = await generateText({ ...common, model: make(MODEL), prompt: "Paris", output: Output.object({ schema: place }) });
    check(["Paris", "Rome"].includes(found.output.city), found.output);
  };
}
steps.anthropic_thinking = async () => {
  const found = await generateText({
    model: models.anthropic(AGENT), prompt: "Well?", maxRetries: 0,
    providerOptions: { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } },
  });
  check(found.text.trim() === DONE && found.reasoningText, found.content);
};
steps.openai_responses_thinking = async () => {
  const found = await generateText({
    model: models.openai_responses(AGENT), prompt: "Well?", maxRetries: 0,
    providerOptions: {
      openai: { reasoningEffort: "low", reasoningSummary: "auto", store: false, forceReasoning: true, include: ["reasoning.encrypted_content"] },
    },
  });
  check(found.text.trim() === DONE, found.content);
};
await run(steps);
