// The body of a request for an answer, from the settings of a conversation.
import type { Settings } from "./types.ts";

type Json = Record<string, unknown>;

const NUMBERS = [
  "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens", "seed",
] as const;

export function requestBody(model: string, settings: Settings, messages: Json[], continued = false): Json {
  const body: Json = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    // Coordinates are special tokens; the page reads them and hides the others.
    skip_special_tokens: false,
  };
  for (const name of NUMBERS) if (settings[name] !== undefined) body[name] = settings[name];
  if (settings.stop.length) body["stop"] = settings.stop;
  if (settings.mode) body["mm_processor_kwargs"] = { downsample_mode: settings.mode };
  if (settings.thinking) body["chat_template_kwargs"] = { enable_thinking: true };
  if (settings.schema.trim()) {
    body["response_format"] = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(settings.schema), strict: true } };
  }
  const tools = readTools(settings.tools);
  if (tools.length) body["tools"] = tools;
  if (continued) body["continue_final_message"] = true;
  return body;
}

/** The tools of a JSON text: a list, or one tool; a bare function is taken as one. Throws where it is no JSON. */
export function readTools(text: string): Json[] {
  if (!text.trim()) return [];
  const given: unknown = JSON.parse(text);
  const list: unknown[] = Array.isArray(given) ? given : [given];
  return list.map((tool, index) => {
    const made = typeof tool === "object" && tool !== null ? (tool as Json) : {};
    const inner = (made["function"] ?? made) as Json;
    if (typeof inner["name"] !== "string" || !inner["name"]) throw new Error(`tools[${index}] has no name`);
    return made["function"] ? made : { type: "function", function: made };
  });
}
