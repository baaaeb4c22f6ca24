// The page in several tabs: each tells the others what it has stored, and they show it. The database merges (db.ts).
import type { Conversation, Turn } from "../lib/types.ts";

export type News =
  | { kind: "turns"; turns: Turn[] }
  | { kind: "conversation"; conversation: Conversation }
  /** Turns were deleted; without `turns` the whole conversation. */
  | { kind: "gone"; conversation: string; turns?: string[] }
  | { kind: "presets" }
  | { kind: "defaults" }
  /** A tab has opened a conversation: who streams an answer of it says so. */
  | { kind: "opened"; conversation: string }
  | { kind: "stop"; turn: string };

const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("pocketvlm");

export function tell(news: News): void {
  channel?.postMessage(news);
}

export function listen(heard: (news: News) => void): void {
  channel?.addEventListener("message", (event: MessageEvent<News>) => heard(event.data));
}

// --- bytes that a draft names, which no tab may delete ---

const PREFIX = "pocketvlm bytes ";
const held = new Set<string>();

/** Hold bytes for a draft of this tab, until it is closed. */
export function hold(...keys: (string | undefined)[]): void {
  for (const key of keys) {
    if (key === undefined || held.has(key)) continue;
    held.add(key);
    // A lock is seen by every tab and ends with its own. Pages on plain http from elsewhere have none.
    void navigator.locks?.request(PREFIX + key, { mode: "shared" }, () => new Promise(() => undefined)).catch(() => undefined);
  }
}

/** The keys that some tab holds; undefined where tabs cannot know it of each other. */
export async function heldKeys(): Promise<{ here: ReadonlySet<string>; anywhere: ReadonlySet<string> | undefined }> {
  const found = await navigator.locks?.query().catch(() => undefined);
  if (!found) return { here: held, anywhere: undefined };
  const names = (found.held ?? []).map(({ name }) => name ?? "").filter((name) => name.startsWith(PREFIX));
  return { here: held, anywhere: new Set([...held, ...names.map((name) => name.slice(PREFIX.length))]) };
}
