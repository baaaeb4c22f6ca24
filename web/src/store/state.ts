// What the page shows: conversations, the turns of the open one, and settings of the page.
import { batch, computed, signal } from "@preact/signals";
import { randomId } from "../lib/ids.ts";
import { children, isAfter, newestLeaf, pathTo } from "../lib/tree.ts";
import { session } from "../lib/storage.ts";
import { PLAIN, type Conversation, type Model, type Settings, type Turn } from "../lib/types.ts";
import { get } from "./api.ts";
import * as db from "./db.ts";
import { notice, report } from "./notice.ts";
import { defaults, readPresets, showDefaults, showPreset } from "./presets.ts";
import { listen, tell, type News } from "./tabs.ts";

export { notice, report };

/** The settings of a conversation that is not stored yet, for this tab. */
const NEW = "pocketvlm-new";

export const conversations = signal<Conversation[]>([]);
/** The open conversation; at first one of the address's name, until the database is read. */
export const current = signal<Conversation>({ ...fresh(PLAIN), id: location.hash.slice(1) || randomId() });
/** Whether the turns of the open conversation are being read. */
export const loading = signal(location.hash.length > 1);
export const turns = signal<ReadonlyMap<string, Turn>>(new Map());
/** What /v1/models lists: the model under each of its names, and the adapters on it. */
export const models = signal<Model[]>([]);
export const model = computed(() => models.value.find((each) => !each.parent)?.id ?? "");
export const adapters = computed(() => models.value.filter((each) => each.parent).map(({ id }) => id));
/** Tokens that a prompt and its answer may have together. */
export const contextLength = computed(() => models.value[0]?.max_model_len ?? 0);
export const view = signal<"chat" | "server">("chat");
export const dialog = signal<"" | "settings" | "compare">("");
export const sidebarOpen = signal(false);

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

/** Settings that the reader has chosen before the database is read; then undefined. */
let early: Partial<Settings> | undefined = {};
/** Settled once the open conversation is read. */
let opening: Promise<void> | undefined;

/** Do what needs the open conversation: now, or once it is read. */
export function onceOpen(work: () => void): void {
  if (opening) void opening.then(() => onceOpen(work));
  else work();
}

function during(work: Promise<void>): Promise<void> {
  const done = work.catch(report).then(() => {
    if (opening !== done) return;
    opening = undefined;
    loading.value = false;
  });
  return (opening = done);
}

export function start(): Promise<void> {
  listen(hear);
  db.replayOthers(report);
  void db.forgetDeletions().catch(report);
  return during(begin());
}

async function begin(): Promise<void> {
  const { id } = current.value;
  await db.replayJournals().catch(report);
  const [all] = await Promise.all([db.conversations.all(), readPresets()]).catch((error: unknown) => {
    newConversation(); // not one of the address's name: that may be stored
    early = undefined;
    throw error;
  });
  const wanted = batch(() => {
    // Other tabs may have told of newer ones while these were read.
    const known = new Set(conversations.value.map((each) => each.id));
    conversations.value = newestFirst([...conversations.value, ...all.filter((each) => !known.has(each.id) && !deleted.has(each.id)).map(whole)]);
    const found = current.value.id === id ? conversations.value.find((each) => each.id === id) : undefined;
    if (!found && current.value.leaf === null) {
      const settings = session.get(NEW);
      const made = fresh(settings ? { ...PLAIN, ...(JSON.parse(settings) as Settings) } : defaults.value);
      const isNamed = current.value.id === location.hash.slice(1); // by an address whose conversation is gone
      current.value = isNamed ? made : { ...made, id: current.value.id };
      loading.value = false;
    } else if (found) {
      current.value = found;
    }
    const chosen = early ?? {};
    early = undefined;
    if (Object.keys(chosen).length) setSettings(chosen);
    return found && current.value;
  });
  if (wanted) await read(wanted);
}

/** Before the page goes: what streams can be continued, and the next page stores what this one has not. */
export function leave(): void {
  putTurns([...running.values()].map(({ turn }): Turn => ({ ...turn, state: "cut" })));
  db.leaveJournal();
}

export async function readModels(): Promise<void> {
  models.value = (await get<{ data: Model[] }>("v1/models")).data;
}

export function newConversation(): void {
  session.remove(NEW);
  early &&= {};
  batch(() => {
    current.value = fresh(defaults.value);
    turns.value = new Map();
    loading.value = false;
    view.value = "chat";
    sidebarOpen.value = false;
  });
  history.replaceState(null, "", location.pathname + location.search);
}

export function openConversation(id: string): Promise<void> {
  const found = conversations.value.find((each) => each.id === id);
  if (!found) return Promise.resolve();
  early &&= {};
  return during(read(found));
}

/** Show a conversation at once, and its turns when they are read. */
async function read(found: Conversation): Promise<void> {
  const { id } = found;
  batch(() => {
    if (current.value.id !== id) turns.value = new Map();
    loading.value = turns.value.size === 0;
    current.value = found;
    view.value = "chat";
    sidebarOpen.value = false;
  });
  history.replaceState(null, "", `#${id}`);
  const loaded = await db.turns.of(id).catch((error: unknown) => {
    if (current.value.id === id) newConversation();
    throw error;
  });
  if (current.value.id !== id) return;
  // What this page has not stored yet, because it streams; and what other tabs have told meanwhile.
  const live = [...running.values()].map(({ turn }) => turn).filter((turn) => turn.conversation === id);
  const newer = [...turns.value.values(), ...live];
  const alive = loaded.filter((turn) => !isDeleted(turn)).map(settled);
  batch(() => {
    turns.value = new Map([...alive, ...newer].map((turn) => [turn.id, turn]));
    if (!turns.value.has(current.value.leaf ?? "")) current.value = { ...current.value, leaf: newestLeaf(after.value, null) };
    loading.value = false;
  });
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
function addConversation(made: Conversation): void {
  showConversation(made);
  if (made.id === current.value.id) {
    session.remove(NEW);
    history.replaceState(null, "", `#${made.id}`);
  }
  void db.conversations.add(made).catch(report);
  tell({ kind: "conversation", conversation: made });
}

/** Store a conversation from a file, and show it. Throws where the database does not take it. */
export async function importConversation(made: Conversation, read: readonly Turn[]): Promise<void> {
  await db.conversations.add(made, ...read);
  showConversation(made);
  tell({ kind: "conversation", conversation: made });
  await openConversation(made.id);
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
  if (!isStored) return session.set(NEW, JSON.stringify(changed.settings));
  void db.conversations.patch(id, change).catch(report);
  tell({ kind: "conversation", conversation: changed, change });
}

/** A conversation whose last turn was deleted goes, too; the next question begins another with its settings. */
function emptyConversation(emptied: Conversation): void {
  dropConversation(emptied.id);
  current.value = fresh(emptied.settings);
  void db.conversations.delete(emptied.id).catch(report);
  tell({ kind: "gone", conversation: emptied.id });
}

export function setSettings(change: Partial<Settings>): void {
  const settings = { ...current.value.settings, ...change };
  if (early) {
    early = { ...early, ...change };
    current.value = { ...current.value, settings };
  } else {
    patchConversation(current.value.id, { settings });
  }
}

/** Go to the newest turn of a branch. */
export function showBranch(turn: Turn): void {
  patchConversation(current.value.id, { leaf: newestLeaf(after.value, turn.id) });
}

/** Where the shown branch ends without some of its turns. */
export function leafWithout(gone: ReadonlySet<string>): string | null {
  const shown = path.value;
  const first = shown.findIndex((turn) => gone.has(turn.id));
  if (first < 0) return current.value.leaf;
  const parent = shown[first]!.parent;
  const sibling = after.value.get(parent)?.findLast((turn) => !gone.has(turn.id));
  return sibling ? newestLeaf(after.value, sibling.id) : parent;
}

export function forget(gone: ReadonlySet<string>): void {
  for (const id of gone) {
    deleted.add(id);
    running.get(id)?.abort.abort();
  }
  const next = new Map(turns.value);
  for (const id of gone) next.delete(id);
  turns.value = next;
}

export function dropConversation(id: string): void {
  deleted.add(id);
  for (const { abort, turn } of running.values()) if (turn.conversation === id) abort.abort();
  conversations.value = conversations.value.filter((each) => each.id !== id);
  if (current.value.id === id) newConversation();
}

// --- other tabs ---

function hear(news: News): void {
  if (news.kind === "turns") {
    showTurns(news.turns.filter((turn) => !running.has(turn.id) && !isDeleted(turn)));
  } else if (news.kind === "conversation") {
    hearConversation(news.conversation, news.change);
  } else if (news.kind === "gone") {
    hearDeletion(news.conversation, news.turns);
  } else if (news.kind === "opened") {
    const live = [...running.values()].map(({ turn }) => turn).filter((turn) => turn.conversation === news.conversation);
    if (live.length) tell({ kind: "turns", turns: live });
  } else if (news.kind === "stop") {
    running.get(news.turn)?.abort.abort();
  } else if (news.kind === "preset") {
    showPreset(news.name, news.made);
  } else {
    showDefaults(news.settings);
  }
}

/** Another tab's title and settings are shown; its branch only if that goes on where this tab's ends. */
function hearConversation(told: Conversation, change?: Partial<Conversation>): void {
  if (deleted.has(told.id)) return;
  const own = current.value;
  const known = told.id === own.id && own.leaf !== null ? own : conversations.value.find(({ id }) => id === told.id);
  const changed = whole(known && change ? { ...known, ...change } : told);
  const goesOn = changed.id !== own.id || loading.value || isAfter(turns.value, changed.leaf, own.leaf);
  showConversation(goesOn ? changed : { ...changed, leaf: own.leaf });
}

/** Other tabs have deleted turns, or the whole conversation; what this one has stored of them meanwhile goes, too. */
function hearDeletion(conversation: string, told?: readonly string[]): void {
  if (!told) {
    dropConversation(conversation);
    void db.conversations.delete(conversation).catch(report);
    return;
  }
  const gone = new Set(told);
  const leaf = leafWithout(gone);
  batch(() => {
    forget(gone);
    if (conversation !== current.value.id || loading.value) return;
    if (leaf === null) newConversation();
    else current.value = { ...current.value, leaf };
  });
  void db.turns.delete(...gone).catch(report);
}

/** Ask the browser not to delete the database when space is short. */
export function persist(): void {
  void navigator.storage?.persist?.().catch(() => undefined);
}
