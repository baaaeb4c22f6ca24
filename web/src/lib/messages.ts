// Conversations as OpenAI messages: what a request sends, and the file that `pocketvlm chat` reads and writes.
import type { Attachment, MediaOptions, Role, ToolCall, Turn } from "./types.ts";

type Json = Record<string, unknown>;
export type Source = { url: string } | { file_id: string };

const OPTIONS = ["downsample_mode", "max_slice_nums", "slice_mode", "max_num_frames", "stack_frames", "fps", "start", "end"];

/** One image or video as a content part. */
export function mediaPart(attachment: Attachment, source: Source, forced: MediaOptions = {}): Json {
  const kind = `${attachment.kind}_url`;
  return { type: kind, [kind]: source, ...attachment.options, ...forced };
}

/** A turn as a message. source: where the server finds the data of an attachment. */
export function toMessage(turn: Turn, source: (attachment: Attachment) => Source): Json {
  if (turn.role === "tool") return { role: "tool", tool_call_id: turn.callId ?? "", content: turn.text };
  const media = (turn.attachments ?? []).map((each) => mediaPart(each, source(each)));
  const text = turn.text ? [{ type: "text", text: turn.text }] : [];
  const content = media.length ? [...media, ...text] : turn.text;
  const message: Json = { role: turn.role, content };
  if (turn.reasoning) message["reasoning_content"] = turn.reasoning;
  if (turn.calls?.length) {
    message["tool_calls"] = turn.calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
  }
  return message;
}

/** A system prompt and turns as messages. */
export function toMessages(system: string, path: readonly Turn[], source: (attachment: Attachment) => Source): Json[] {
  const head = system.trim() ? [{ role: "system", content: system }] : [];
  return [...head, ...path.map((turn) => toMessage(turn, source))];
}

/** An image or video of an imported message: a data URI or an address. */
export interface ImportedMedia {
  kind: "image" | "video";
  url: string;
  options: MediaOptions;
}

export interface ImportedTurn {
  role: Role;
  text: string;
  reasoning?: string;
  calls?: ToolCall[];
  callId?: string;
  media: ImportedMedia[];
}

export interface Imported {
  system: string;
  turns: ImportedTurn[];
}

/** The messages of a file: a list, or an object with the list under "messages". Throws an Error that names the fault. */
export function readMessages(text: string): Imported {
  const given: unknown = JSON.parse(text.replace(/^\uFEFF/, ""));
  const list = isObject(given) ? given["messages"] : given;
  if (!Array.isArray(list)) throw new Error("there is no list of messages in it");
  const turns = list.map((message, index) => readMessage(message, `messages[${index}]`));
  const first = turns[0];
  const system = first?.role === "system" && !first.media.length ? first.text : "";
  return { system, turns: system ? turns.slice(1) : turns };
}

function readMessage(message: unknown, where: string): ImportedTurn {
  if (!isObject(message)) throw new Error(`${where} is no object`);
  const role = message["role"] === "developer" ? "system" : message["role"];
  if (role !== "user" && role !== "assistant" && role !== "system" && role !== "tool") {
    throw new Error(`${where}.role is ${JSON.stringify(role)}`);
  }
  const content = message["content"] ?? "";
  const parts: unknown[] = Array.isArray(content) ? content : [content];
  const texts: string[] = [];
  const media: ImportedMedia[] = [];
  for (const [index, part] of parts.entries()) {
    const read = typeof part === "string" ? part : readPart(part, `${where}.content[${index}]`);
    if (typeof read === "string") texts.push(read);
    else media.push(read);
  }
  const turn: ImportedTurn = { role, text: texts.filter(Boolean).join("\n"), media };
  const reasoning = message["reasoning_content"] ?? message["reasoning"];
  if (typeof reasoning === "string" && reasoning) turn.reasoning = reasoning;
  if (typeof message["tool_call_id"] === "string") turn.callId = message["tool_call_id"];
  if (Array.isArray(message["tool_calls"])) turn.calls = message["tool_calls"].map(readCall);
  return turn;
}

function readPart(part: unknown, where: string): string | ImportedMedia {
  if (!isObject(part)) throw new Error(`${where} is neither text nor an object`);
  const type = part["type"];
  if (type === "text" || type === "input_text" || type === "output_text") {
    if (typeof (part["text"] ?? "") !== "string") throw new Error(`${where}.text is no text`);
    return (part["text"] as string | undefined) ?? "";
  }
  if (type !== "image_url" && type !== "video_url" && type !== "image" && type !== "video") {
    throw new Error(`${where}.type is ${JSON.stringify(type)}`);
  }
  const value = part[type] ?? part["url"];
  const url = isObject(value) ? value["url"] : value;
  if (typeof url !== "string") throw new Error(`${where} has no URL`);
  const options = Object.fromEntries(OPTIONS.filter((name) => part[name] != null).map((name) => [name, checked(part[name], `${where}.${name}`)]));
  const plain = /^[a-z+.-]{2,}:/i.test(url) ? url : `data:;base64,${url}`;
  return { kind: type.startsWith("video") ? "video" : "image", url: plain, options };
}

/** An option's value: a number, a switch, or a mode. */
function checked(value: unknown, where: string): unknown {
  const isMode = where.endsWith(".downsample_mode");
  const fits = isMode ? value === "16x" || value === "4x" : where.endsWith(".slice_mode") ? typeof value === "boolean" : Number.isFinite(value);
  if (!fits) throw new Error(`${where} is ${JSON.stringify(value).slice(0, 60)}`);
  return value;
}

function readCall(call: unknown, index: number): ToolCall {
  const made = isObject(call) ? call : {};
  const inner = isObject(made["function"]) ? made["function"] : {};
  const given = inner["arguments"];
  return {
    id: typeof made["id"] === "string" ? made["id"] : `call_${index}`,
    name: typeof inner["name"] === "string" ? inner["name"] : "",
    arguments: typeof given === "string" ? given : JSON.stringify(given ?? {}),
  };
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
