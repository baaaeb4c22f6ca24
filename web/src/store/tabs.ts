// The page in several tabs: each tells the others what it stores, and they show it. The database merges (db.ts).
import { randomId } from "../lib/ids.ts";
import { local, session } from "../lib/storage.ts";
import type { Conversation, Preset, Settings, Turn } from "../lib/types.ts";

export type News =
  | { kind: "turns"; turns: Turn[] }
  /** A conversation is new, or some of its fields have changed. */
  | { kind: "conversation"; conversation: Conversation; change?: Partial<Conversation> }
  /** Turns were deleted; without `turns` the whole conversation. */
  | { kind: "gone"; conversation: string; turns?: string[] }
  | { kind: "preset"; name: string; made?: Preset }
  | { kind: "defaults"; settings: Settings }
  /** A tab has opened a conversation: who streams an answer of it says so. */
  | { kind: "opened"; conversation: string }
  | { kind: "stop"; turn: string };

// The name tells pages of other versions, which say other things, apart.
const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("pocketvlm 2");

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

const LEFT = "pocketvlm-draft-bytes ";
const TAB = "pocketvlm-tab";
const LEFT_FOR = 86_400_000; // milliseconds

/** Before the page goes: what its draft names stays while this tab has no page that holds it, as during a reload. */
export function leaveHeld(keys: readonly string[]): void {
  const tab = session.get(TAB) ?? randomId();
  session.set(TAB, tab);
  if (keys.length) local.set(LEFT + tab, JSON.stringify({ at: Date.now(), keys }));
  else local.remove(LEFT + tab);
}

function leftKeys(): string[] {
  return local.keys(LEFT).flatMap((name) => {
    const { at, keys } = JSON.parse(local.get(name) ?? '{"at":0,"keys":[]}') as { at: number; keys: string[] };
    if (at > Date.now() - LEFT_FOR) return keys;
    local.remove(name);
    return [];
  });
}

/** The keys that some tab holds; `anywhere` is undefined where tabs cannot know it of each other. */
export async function heldKeys(): Promise<{ here: ReadonlySet<string>; anywhere: ReadonlySet<string> | undefined }> {
  const here = new Set([...held, ...leftKeys()]);
  const found = await navigator.locks?.query().catch(() => undefined);
  if (!found) return { here, anywhere: undefined };
  const names = (found.held ?? []).map(({ name }) => name ?? "").filter((name) => name.startsWith(PREFIX));
  return { here, anywhere: new Set([...here, ...names.map((name) => name.slice(PREFIX.length))]) };
}
