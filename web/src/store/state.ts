// What the page shows: conversations, the turns of the open one, and settings of the page.
import { batch, computed, signal } from "@preact/signals";
import { randomId } from "../lib/ids.ts";
import { problemOf } from "../lib/problems.ts";
import { children, newestLeaf, pathTo, subtree } from "../lib/tree.ts";
import { PLAIN, type Conversation, type Preset, type Settings, type Turn } from "../lib/types.ts";
import { told } from "../text/index.ts";
import * as db from "./db.ts";
import { drafted } from "./media.ts";

export const conversations = signal<Conversation[]>([]);
export const current = signal<Conversation>(fresh(PLAIN));
export const turns = signal<ReadonlyMap<string, Turn>>(new Map());
export const presets = signal<Preset[]>([]);
/** The settings of new conversations. */
export const defaults = signal<Settings>(PLAIN);
export const model = signal<string>("");
/** Tokens that a prompt and its answer may have together. */
export const contextLength = signal(0);
export const view = signal<"chat" | "server">("chat");
export const dialog = signal<"" | "settings" | "compare" | "help">("");
export const sidebarOpen = signal(false);
export const notice = signal("");

export const after = computed(() => children(turns.value));
export const path = computed(() => pathTo(turns.value, current.value.leaf));

/** Turns whose answers stream now; those of other conversations too. */
export const running = new Map<string, { abort: AbortController; turn: Turn }>();
export const runningCount = signal(0);

export function fresh(settings: Settings): Conversation {
  const now = Date.now();
  return { id: randomId(), title: "", created: now, updated: now, leaf: null, settings };
}

export async function start(): Promise<void> {
  const [all, saved, chosen] = await Promise.all([db.conversations.all(), db.presets.all(), db.values.get<Settings>("defaults")]);
  conversations.value = all.sort((a, b) => b.updated - a.updated);
  presets.value = saved;
  if (chosen) defaults.value = { ...PLAIN, ...chosen };
  const wanted = conversations.value.find((each) => each.id === location.hash.slice(1));
  if (wanted) await openConversation(wanted.id);
  else newConversation();
}

export function newConversation(): void {
  batch(() => {
    current.value = fresh(defaults.value);
    turns.value = new Map();
    view.value = "chat";
    sidebarOpen.value = false;
  });
  history.replaceState(null, "", location.pathname + location.search);
}

export async function openConversation(id: string): Promise<void> {
  const found = conversations.value.find((each) => each.id === id);
  if (!found) return;
  const loaded = await db.turns.of(id);
  const read = new Map(loaded.map((turn) => [turn.id, settled(turn)]));
  batch(() => {
    current.value = found;
    turns.value = read;
    view.value = "chat";
    sidebarOpen.value = false;
  });
  history.replaceState(null, "", `#${id}`);
}

/** A loaded turn: an answer that no request of this page writes any more was cut. */
function settled(turn: Turn): Turn {
  const live = running.get(turn.id)?.turn;
  if (live) return live;
  return turn.state === "streaming" || turn.state === "waiting" ? { ...turn, state: "cut" } : turn;
}

/** Show and store turns. save: also in the database. */
export function putTurns(changed: Turn[], save = true): void {
  const here = changed.filter((turn) => turn.conversation === current.value.id);
  if (here.length) {
    const next = new Map(turns.value);
    for (const turn of here) next.set(turn.id, turn);
    turns.value = next;
  }
  if (save) void db.turns.put(...changed).catch(report);
}

/** Change a conversation, and store it once it has turns. */
export function putConversation(changed: Conversation): void {
  batch(() => {
    if (changed.id === current.value.id) current.value = changed;
    const others = conversations.value.filter((each) => each.id !== changed.id);
    if (changed.leaf !== null) {
      conversations.value = [changed, ...others].sort((a, b) => b.updated - a.updated);
      void db.conversations.put(changed).catch(report);
      if (changed.id === current.value.id) history.replaceState(null, "", `#${changed.id}`);
    } else {
      conversations.value = others;
      void db.conversations.delete(changed.id).catch(report);
    }
  });
}

export function patchConversation(id: string, change: Partial<Conversation>): void {
  const found = id === current.value.id ? current.value : conversations.value.find((each) => each.id === id);
  if (found) putConversation({ ...found, ...change });
}

export function setSettings(change: Partial<Settings>): void {
  const settings = { ...current.value.settings, ...change };
  if (current.value.leaf === null) current.value = { ...current.value, settings };
  else putConversation({ ...current.value, settings });
}

export function setDefaults(settings: Settings): void {
  defaults.value = settings;
  void db.values.put("defaults", settings).catch(report);
}

/** Go to the newest turn of a branch. */
export function showBranch(turn: Turn): void {
  patchConversation(current.value.id, { leaf: newestLeaf(after.value, turn.id) });
}

/** Remove a turn and everything after it, in all branches; answers asked together go together. */
export async function deleteTurn(turn: Turn): Promise<void> {
  const gone = subtree(after.value, turn.id);
  for (const id of gone) running.get(id)?.abort.abort();
  const next = new Map(turns.value);
  for (const id of gone) next.delete(id);
  batch(() => {
    turns.value = next;
    if (!current.value.leaf || gone.includes(current.value.leaf)) {
      const sibling = after.value.get(turn.parent)?.at(-1);
      putConversation({ ...current.value, leaf: sibling ? newestLeaf(after.value, sibling.id) : turn.parent });
    }
  });
  await db.turns.delete(...gone);
}

export async function deleteConversation(id: string): Promise<void> {
  for (const [turn, run] of running) if (run.turn.conversation === id) running.get(turn)?.abort.abort();
  conversations.value = conversations.value.filter((each) => each.id !== id);
  if (current.value.id === id) newConversation();
  await db.conversations.delete(id);
  const gone = await db.turns.of(id);
  await db.turns.delete(...gone.map((turn) => turn.id));
  await dropUnusedBlobs();
}

/** Delete the bytes that no turn names any more. */
async function dropUnusedBlobs(): Promise<void> {
  const used = new Set((await db.turns.all()).flatMap((turn) => (turn.attachments ?? []).flatMap((each) => [each.blob, each.shown])));
  const unused = (await db.blobs.keys()).map(String).filter((key) => !used.has(key) && !drafted.has(key));
  await db.blobs.delete(...unused);
}

/** Tell the reader of a failure that belongs to no turn: in plain words, then the server's or browser's own. */
export function report(error: unknown): void {
  const { key, detail } = problemOf(error);
  notice.value = [told(key), detail].filter(Boolean).join(" ");
}

/** Ask the browser not to delete the database when space is short. */
export function persist(): void {
  void navigator.storage?.persist?.().catch(() => undefined);
}
