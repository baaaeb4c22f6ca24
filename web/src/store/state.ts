// What the page shows: conversations, the turns of the open one, and settings of the page.
import { batch, computed, signal } from "@preact/signals";
import { randomId } from "../lib/ids.ts";
import { problemOf } from "../lib/problems.ts";
import { children, group, isAfter, newestLeaf, pathTo, subtree } from "../lib/tree.ts";
import { session } from "../lib/storage.ts";
import { PLAIN, type Conversation, type Model, type Preset, type Settings, type Turn } from "../lib/types.ts";
import { told } from "../text/index.ts";
import { get } from "./api.ts";
import * as db from "./db.ts";
import { heldKeys, listen, tell, type News } from "./tabs.ts";

export const conversations = signal<Conversation[]>([]);
export const current = signal<Conversation>(fresh(PLAIN));
export const turns = signal<ReadonlyMap<string, Turn>>(new Map());
export const presets = signal<Preset[]>([]);
/** The settings of new conversations. */
export const defaults = signal<Settings>(PLAIN);
/** What /v1/models lists: the model under each of its names, and the adapters on it. */
export const models = signal<Model[]>([]);
export const model = computed(() => models.value.find((each) => !each.parent)?.id ?? "");
export const adapters = computed(() => models.value.filter((each) => each.parent).map(({ id }) => id));
/** Tokens that a prompt and its answer may have together. */
export const contextLength = computed(() => models.value[0]?.max_model_len ?? 0);
export const view = signal<"chat" | "server">("chat");
export const dialog = signal<"" | "settings" | "compare">("");
export const sidebarOpen = signal(false);
export const notice = signal("");

export const after = computed(() => children(turns.value));
export const path = computed(() => pathTo(turns.value, current.value.leaf));

/** Turns whose answers stream now; those of other conversations too. */
export const running = new Map<string, { abort: AbortController; turn: Turn }>();
export const runningCount = signal(0);
/** Ids of turns and conversations that were deleted while this page is open: nothing stores them again. */
const deleted = new Set<string>();

export function fresh(settings: Settings): Conversation {
  const now = Date.now();
  return { id: randomId(), title: "", created: now, updated: now, leaf: null, settings };
}

/** Stored settings may be older than some of the fields. */
function whole(conversation: Conversation): Conversation {
  return { ...conversation, settings: { ...PLAIN, ...conversation.settings } };
}

function newestFirst(list: Conversation[]): Conversation[] {
  return list.sort((a, b) => b.updated - a.updated);
}

export async function start(): Promise<void> {
  listen(hear);
  const begun = current.value;
  await readCut();
  const [all, saved, chosen] = await Promise.all([db.conversations.all(), db.presets.all(), db.values.get<Settings>("defaults")]);
  batch(() => {
    // The reader may have asked something while this was read.
    const known = new Set(conversations.value.map(({ id }) => id));
    conversations.value = newestFirst([...conversations.value, ...all.filter(({ id }) => !known.has(id) && !deleted.has(id)).map(whole)]);
    presets.value = saved;
    if (chosen) defaults.value = { ...PLAIN, ...chosen };
    if (current.value === begun) current.value = { ...begun, settings: defaults.value };
  });
  const wanted = conversations.value.find((each) => each.id === location.hash.slice(1));
  if (wanted && current.value.id === begun.id && current.value.leaf === null) await openConversation(wanted.id);
}

const CUT = "pocketvlm-cut";

/** Store what streams before the page goes, so that it can be continued; in the session's storage, too, which does not wait. */
export function saveRunning(): void {
  const cut = [...running.values()].map(({ turn }): Turn => ({ ...turn, state: "cut" }));
  if (!cut.length) return;
  session.set(CUT, JSON.stringify(cut));
  putTurns(cut);
}

async function readCut(): Promise<void> {
  const saved = session.get(CUT);
  if (!saved) return;
  await db.turns.put(...(JSON.parse(saved) as Turn[]));
  session.set(CUT, "");
}

export async function readModels(): Promise<void> {
  models.value = (await get<{ data: Model[] }>("v1/models")).data;
}

/** The conversation that was asked for last, while it is read. */
let opening = "";

export function newConversation(): void {
  opening = "";
  batch(() => {
    current.value = fresh(defaults.value);
    turns.value = new Map();
    view.value = "chat";
    sidebarOpen.value = false;
  });
  history.replaceState(null, "", location.pathname + location.search);
}

export async function openConversation(id: string): Promise<void> {
  opening = id;
  const loaded = await db.turns.of(id);
  const found = conversations.value.find((each) => each.id === id);
  if (opening !== id || !found) return;
  const read = new Map(loaded.map((turn) => [turn.id, settled(turn)]));
  // What this page has not stored yet, because it streams.
  for (const { turn } of running.values()) if (turn.conversation === id) read.set(turn.id, turn);
  batch(() => {
    current.value = found;
    turns.value = read;
    view.value = "chat";
    sidebarOpen.value = false;
  });
  history.replaceState(null, "", `#${id}`);
  tell({ kind: "opened", conversation: id });
}

/** A loaded turn: an answer that no request writes any more was cut. */
function settled(turn: Turn): Turn {
  return turn.state === "streaming" || turn.state === "waiting" ? { ...turn, state: "cut" } : turn;
}

function isDeleted(turn: Turn): boolean {
  return deleted.has(turn.id) || deleted.has(turn.conversation);
}

/** Show and store turns. save: also in the database, and in other tabs. */
export function putTurns(changed: Turn[], save = true): void {
  const alive = changed.filter((turn) => !isDeleted(turn));
  showTurns(alive);
  if (!save || !alive.length) return;
  void db.turns.put(...alive).catch(report);
  tell({ kind: "turns", turns: alive });
}

function showTurns(changed: Turn[]): void {
  const here = changed.filter((turn) => turn.conversation === current.value.id);
  if (!here.length) return;
  const next = new Map(turns.value);
  for (const turn of here) next.set(turn.id, turn);
  turns.value = next;
}

function showConversation(changed: Conversation): void {
  batch(() => {
    if (changed.id === current.value.id) current.value = changed;
    const others = conversations.value.filter((each) => each.id !== changed.id);
    conversations.value = changed.leaf === null ? others : newestFirst([changed, ...others]);
  });
}

/** Store a conversation that the database does not have yet. */
export function addConversation(made: Conversation): void {
  showConversation(made);
  if (made.id === current.value.id) history.replaceState(null, "", `#${made.id}`);
  void db.conversations.put(made).catch(report);
  tell({ kind: "conversation", conversation: made });
}

/** Change some fields of a conversation; it is stored once it has turns, and deleted when it has none any more. */
export function patchConversation(id: string, change: Partial<Conversation>): void {
  const found = id === current.value.id ? current.value : conversations.value.find((each) => each.id === id);
  if (!found || deleted.has(id)) return;
  const changed = { ...found, ...change };
  const isStored = found.leaf !== null;
  if (!isStored && changed.leaf !== null) return addConversation(changed);
  if (isStored && changed.leaf === null) return emptyConversation(changed);
  showConversation(changed);
  if (!isStored) return;
  void db.conversations.patch(id, change).catch(report);
  tell({ kind: "conversation", conversation: changed });
}

/** A conversation whose last turn was deleted goes, too; the next question begins another with its settings. */
function emptyConversation(emptied: Conversation): void {
  dropConversation(emptied.id);
  current.value = fresh(emptied.settings);
  void db.conversations.delete(emptied.id).catch(report);
  tell({ kind: "gone", conversation: emptied.id });
}

export function setSettings(change: Partial<Settings>): void {
  patchConversation(current.value.id, { settings: { ...current.value.settings, ...change } });
}

export function setDefaults(settings: Settings): void {
  defaults.value = settings;
  void db.values.put("defaults", settings).then(() => tell({ kind: "defaults" }), report);
}

export function savePreset(made: Preset): void {
  presets.value = [...presets.value.filter((each) => each.name !== made.name), made];
  void db.presets.put(made).then(() => tell({ kind: "presets" }), report);
}

export function deletePreset(name: string): void {
  presets.value = presets.value.filter((each) => each.name !== name);
  void db.presets.delete(name).then(() => tell({ kind: "presets" }), report);
}

/** Go to the newest turn of a branch. */
export function showBranch(turn: Turn): void {
  patchConversation(current.value.id, { leaf: newestLeaf(after.value, turn.id) });
}

/** Where the shown branch ends without some of its turns. */
function leafWithout(gone: ReadonlySet<string>): string | null {
  const shown = path.value;
  const first = shown.findIndex((turn) => gone.has(turn.id));
  if (first < 0) return current.value.leaf;
  const parent = shown[first]!.parent;
  const sibling = after.value.get(parent)?.findLast((turn) => !gone.has(turn.id));
  return sibling ? newestLeaf(after.value, sibling.id) : parent;
}

function forget(gone: ReadonlySet<string>): void {
  for (const id of gone) {
    deleted.add(id);
    running.get(id)?.abort.abort();
  }
  const next = new Map(turns.value);
  for (const id of gone) next.delete(id);
  turns.value = next;
}

/** Remove a turn and everything after it, in all branches; answers asked together go together. */
export async function deleteTurn(turn: Turn): Promise<void> {
  const gone = new Set(group(after.value, turn).flatMap((each) => subtree(after.value, each.id)));
  const lost = [...gone].flatMap((id) => turns.value.get(id) ?? []);
  const leaf = leafWithout(gone);
  const conversation = current.value.id;
  batch(() => {
    forget(gone);
    patchConversation(conversation, { leaf });
  });
  await db.turns.delete(...gone);
  tell({ kind: "gone", conversation, turns: [...gone] });
  await dropUnusedBlobs(lost);
}

export async function deleteConversation(id: string): Promise<void> {
  dropConversation(id);
  await db.conversations.delete(id);
  const gone = await db.turns.of(id);
  await db.turns.delete(...gone.map((turn) => turn.id));
  tell({ kind: "gone", conversation: id });
  await dropUnusedBlobs(gone);
}

function dropConversation(id: string): void {
  deleted.add(id);
  for (const { abort, turn } of running.values()) if (turn.conversation === id) abort.abort();
  conversations.value = conversations.value.filter((each) => each.id !== id);
  if (current.value.id === id) newConversation();
}

function keysOf(list: readonly Turn[]): string[] {
  return list.flatMap((turn) => (turn.attachments ?? []).flatMap((each) => [each.blob, each.shown ?? ""])).filter(Boolean);
}

/** Delete the bytes that no turn and no draft names any more; where drafts of other tabs are not known, only those of `gone`. */
async function dropUnusedBlobs(gone: readonly Turn[]): Promise<void> {
  const { here, anywhere } = await heldKeys();
  const used = new Set(keysOf(await db.turns.all()));
  const candidates = anywhere ? await db.blobs.keys() : keysOf(gone);
  await db.blobs.delete(...candidates.filter((key) => !used.has(key) && !(anywhere ?? here).has(key)));
}

// --- other tabs ---

function hear(news: News): void {
  if (news.kind === "turns") {
    showTurns(news.turns.filter((turn) => !running.has(turn.id) && !isDeleted(turn)));
  } else if (news.kind === "conversation") {
    hearConversation(whole(news.conversation));
  } else if (news.kind === "gone") {
    if (!news.turns) return dropConversation(news.conversation);
    hearDeletion(news.conversation, new Set(news.turns));
  } else if (news.kind === "opened") {
    const live = [...running.values()].map(({ turn }) => turn).filter((turn) => turn.conversation === news.conversation);
    if (live.length) tell({ kind: "turns", turns: live });
  } else if (news.kind === "stop") {
    running.get(news.turn)?.abort.abort();
  } else if (news.kind === "presets") {
    void db.presets.all().then((all) => (presets.value = all), report);
  } else {
    void db.values.get<Settings>("defaults").then((chosen) => (defaults.value = { ...PLAIN, ...chosen }), report);
  }
}

/** Another tab's title and settings are shown; its branch only if that goes on where this tab's ends. */
function hearConversation(changed: Conversation): void {
  if (deleted.has(changed.id)) return;
  const own = current.value;
  const goesOn = changed.id !== own.id || isAfter(turns.value, changed.leaf, own.leaf);
  showConversation(goesOn ? changed : { ...changed, leaf: own.leaf });
}

function hearDeletion(conversation: string, gone: ReadonlySet<string>): void {
  for (const id of gone) deleted.add(id);
  if (conversation !== current.value.id) return;
  const leaf = leafWithout(gone);
  batch(() => {
    forget(gone);
    if (leaf === null) newConversation();
    else current.value = { ...current.value, leaf };
  });
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
