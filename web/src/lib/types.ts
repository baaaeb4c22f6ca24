// The values that the page stores and shows: conversations, turns, attachments, settings.

export type Mode = "16x" | "4x";
export type Role = "user" | "assistant" | "tool" | "system";

/** Options of one image or video, by the names of the server's content parts. */
export interface MediaOptions {
  downsample_mode?: Mode;
  max_slice_nums?: number;
  slice_mode?: boolean;
  max_num_frames?: number;
  stack_frames?: number;
  fps?: number;
  start?: number;
  end?: number;
}

/** One image or video. Its bytes are in the database under `blob`. */
export interface Attachment {
  id: string;
  kind: "image" | "video";
  name: string;
  mime: string;
  size: number;
  blob: string;
  /** The key of a PNG of an image that browsers cannot show. */
  shown?: string;
  width?: number;
  height?: number;
  options: MediaOptions;
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON text, as the model wrote it. */
  arguments: string;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number; image_tokens?: number };
  completion_tokens_details?: { reasoning_tokens?: number };
}

/** Seconds of each stage of a request. */
export interface Timings {
  queue: number;
  media: number;
  resize: number;
  preprocess: number;
  vision: number;
  prefill: number;
  decode: number;
  ttft: number;
  total: number;
  cached_tokens: number;
}

/** What went wrong: the key of a sentence, its values, and the server's own words. */
export interface Problem {
  key: string;
  detail: string;
}

/** streaming: runs now. waiting: the server is away. cut: stopped before its end, and can be continued. */
export type TurnState = "done" | "streaming" | "waiting" | "cut" | "failed";

/** One turn of a conversation; turns with the same parent are branches. */
export interface Turn {
  id: string;
  conversation: string;
  parent: string | null;
  created: number;
  role: Role;
  text: string;
  attachments?: Attachment[];
  reasoning?: string;
  calls?: ToolCall[];
  /** The call that a tool's result belongs to. */
  callId?: string;
  state: TurnState;
  finish?: string;
  stop?: string | number;
  usage?: Usage;
  timings?: Timings;
  problem?: Problem;
  /** Answers with the same group were asked together, to be compared; `label` tells them apart. */
  group?: string;
  label?: string;
  /** The settings of an answer that was asked together with others. */
  settings?: Settings;
  /** The adapter that answered, where one was chosen. */
  model?: string;
}

export interface Settings {
  system: string;
  /** The name of an adapter; empty for the server's model. */
  model: string;
  mode: "" | Mode;
  thinking: boolean;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  max_tokens?: number;
  seed?: number;
  stop: string[];
  /** JSON text, empty for none. */
  schema: string;
  tools: string;
}

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
  leaf: string | null;
  settings: Settings;
}

/** One name of the server's model, or an adapter on it. */
export interface Model {
  id: string;
  max_model_len?: number;
  /** Of an adapter: the name of the model that it changes. */
  parent?: string | null;
}

export interface Preset {
  name: string;
  settings: Settings;
}

export const PLAIN: Settings = { system: "", model: "", mode: "", thinking: false, stop: [], schema: "", tools: "" };
