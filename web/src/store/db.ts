// The page's database: conversations, turns, bytes of attachments, presets and values of the page.
import { signal } from "@preact/signals";
import { randomId } from "../lib/ids.ts";
import { local } from "../lib/storage.ts";
import type { Conversation, Preset, Turn } from "../lib/types.ts";
import { alive, apply, applyTo, DELETION_KNOWN, DELETIONS, journalOf, marked, STORES, type Change, type Entry, type Store } from "./changes.ts";

const NAME = "pocketvlm";
const VERSION = 1;

/** Whether what is stored is there again after the page is closed. */
export const lasting = signal(true);

let opened: Promise<IDBDatabase | undefined> | undefined;

/** The database; undefined where the browser has none for this page, as in some private windows. */
function open(): Promise<IDBDatabase | undefined> {
  opened ??= connect().catch(() => {
    lasting.value = false;
    return undefined;
  });
  return opened;
}

function connect(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("conversations", { keyPath: "id" });
      db.createObjectStore("turns", { keyPath: "id" }).createIndex("conversation", "conversation");
      db.createObjectStore("blobs");
      db.createObjectStore("presets", { keyPath: "name" });
      db.createObjectStore("values");
    };
    request.onsuccess = () => {
      const db = request.result;
      // Browsers close connections at times; a newer page in another tab asks for it. The next request opens another.
      db.onclose = () => (opened = undefined);
      db.onversionchange = () => {
        db.close();
        opened = undefined;
      };
      resolve(db);
    };
    request.onerror = () => reject(request.error);
  });
}

const memory = new Map<Store, Map<string, unknown>>(STORES.map((store) => [store, new Map()]));

/** Do `work` with the database, and once more where that was closed meanwhile; or what is done without one. */
async function withDatabase<T>(work: (db: IDBDatabase) => Promise<T>, otherwise: () => T): Promise<T> {
  for (let isSecond = false; ; isSecond = true) {
    const db = await open();
    if (!db) return otherwise();
    try {
      return await work(db);
    } catch (error) {
      const isClosed = error instanceof DOMException && ["InvalidStateError", "AbortError"].includes(error.name);
      if (!isClosed || isSecond) throw error;
      opened = undefined;
    }
  }
}

function read<T>(store: Store, ask: (store: IDBObjectStore) => IDBRequest<T>, otherwise: (held: Map<string, unknown>) => T): Promise<T> {
  const asked = (db: IDBDatabase): Promise<T> => new Promise((resolve, reject) => {
    const request = ask(db.transaction(store).objectStore(store));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return withDatabase(asked, () => otherwise(memory.get(store)!));
}

/** What is not stored yet, in order. */
const pending = new Set<Entry>();

/** Make changes, all or none. They are safe at once: the next page makes them where this one goes before it has. */
export async function write(changes: readonly Change[]): Promise<void> {
  if (!changes.length) return;
  const entry = { at: Date.now(), changes };
  pending.add(entry); // before anything is waited for
  try {
    const all = marked(entry);
    const stores = all.map(({ store }) => store);
    await withDatabase((db) => change(db, stores, (transaction, failed) => apply(transaction, all, failed)), () => applyTo(memory, all));
  } finally {
    pending.delete(entry);
  }
}

function change(db: IDBDatabase, stores: readonly Store[], work: (transaction: IDBTransaction, failed: (error: unknown) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const transaction = db.transaction([...new Set(stores)], "readwrite");
    let fault: unknown;
    transaction.oncomplete = () => resolve();
    transaction.onerror = (event) => (fault ??= (event.target as IDBRequest).error); // the transaction ends after it
    transaction.onabort = () => reject(fault ?? transaction.error ?? new DOMException("the database does not write", "AbortError"));
    work(transaction, (error) => {
      fault = error;
      transaction.abort();
    });
  });
}

// --- the journal: changes of a page that was gone before they were stored ---

const JOURNAL = "pocketvlm-journal ";
const REPLAYED = "replayed";
const MAX_REPLAYED = 100; // names of journals that are known to have been replayed

/** Leave what is not stored yet to other pages, in the storage that does not wait. */
export function leaveJournal(): void {
  const left = journalOf(pending);
  if (left.length) local.set(`${JOURNAL}${Date.now()} ${randomId()}`, JSON.stringify(left));
}

/** Make the changes of pages that are gone. Each journal is replayed once, whichever pages find it at the same time. */
export async function replayJournals(): Promise<void> {
  const found = local.keys(JOURNAL).sort(); // oldest first
  const db = found.length ? await open() : undefined;
  if (!db) return;
  for (const name of found) {
    const journal = JSON.parse(local.get(name) ?? "[]") as Entry[];
    if (journal.length) await replay(db, name, journal);
    local.remove(name);
  }
}

function replay(db: IDBDatabase, name: string, journal: readonly Entry[]): Promise<void> {
  return change(db, STORES.filter((store) => store !== "blobs"), (transaction, failed) => {
    const values = transaction.objectStore("values");
    const replayed: IDBRequest<string[] | undefined> = values.get(REPLAYED);
    const range = IDBKeyRange.bound(...DELETIONS);
    const marks = values.getAllKeys(range) as IDBRequest<string[]>;
    const times: IDBRequest<number[]> = values.getAll(range);
    times.onsuccess = () => {
      const names = replayed.result ?? [];
      if (names.includes(name)) return transaction.commit();
      const deletions = new Map(marks.result.map((mark, index) => [mark, times.result[index]!]));
      apply(transaction, [...alive(journal, deletions), { store: "values", key: REPLAYED, value: [...names, name].slice(-MAX_REPLAYED) }], failed);
    };
  });
}

/** Replay the journals that other tabs leave, as soon as they do: changes of this tab come after them. */
export function replayOthers(report: (error: unknown) => void): void {
  addEventListener("storage", ({ key, newValue }) => {
    if (key?.startsWith(JOURNAL) && newValue) void replayJournals().catch(report);
  });
}

/** Remove the marks of old deletions. */
export async function forgetDeletions(): Promise<void> {
  const range = IDBKeyRange.bound(...DELETIONS);
  const keys = await read("values", (store) => store.getAllKeys(range) as IDBRequest<string[]>, () => []);
  const times = await Promise.all(keys.map((key) => values.get<number>(key)));
  const old = keys.filter((_, index) => (times[index] ?? 0) < Date.now() - DELETION_KNOWN);
  await write(old.map((key) => gone("values", key)));
}

function put(store: Store, key: string, value: unknown): Change {
  return { store, key, value };
}

function gone(store: Store, key: string): Change {
  return { store, key, gone: true };
}

const all = <T>(store: Store): Promise<T[]> => read(store, (found) => found.getAll() as IDBRequest<T[]>, (held) => [...held.values()] as T[]);
const one = <T>(store: Store, key: string): Promise<T | undefined> =>
  read(store, (found) => found.get(key) as IDBRequest<T | undefined>, (held) => held.get(key) as T | undefined);

export const conversations = {
  all: () => all<Conversation>("conversations"),
  /** Add a conversation, with turns. */
  add: (value: Conversation, ...made: Turn[]) => write([put("conversations", value.id, value), ...made.map((turn) => put("turns", turn.id, turn))]),
  /** Change some fields, whatever other tabs have written to the others; a deleted conversation stays deleted. */
  patch: (id: string, change: Partial<Conversation>) => write([{ store: "conversations", key: id, patch: change }]),
  /** Delete a conversation with its turns. */
  delete: (id: string) => write([gone("conversations", id), { store: "turns", of: id }]),
};

export const turns = {
  all: () => all<Turn>("turns"),
  of: (conversation: string) =>
    read(
      "turns",
      (store) => store.index("conversation").getAll(conversation) as IDBRequest<Turn[]>,
      (held) => ([...held.values()] as Turn[]).filter((turn) => turn.conversation === conversation),
    ),
  put: (...values: Turn[]) => write(values.map((value) => put("turns", value.id, value))),
  delete: (...ids: string[]) => write(ids.map((id) => gone("turns", id))),
};

export const blobs = {
  get: (key: string) => one<Blob>("blobs", key),
  keys: () => read("blobs", (store) => store.getAllKeys() as IDBRequest<string[]>, (held) => [...held.keys()]),
  put: (key: string, value: Blob) => write([put("blobs", key, value)]),
  delete: (...keys: string[]) => write(keys.map((key) => gone("blobs", key))),
};

export const presets = {
  all: () => all<Preset>("presets"),
  put: (value: Preset) => write([put("presets", value.name, value)]),
  delete: (name: string) => write([gone("presets", name)]),
};

export const values = {
  get: <T>(key: string) => one<T>("values", key),
  put: (key: string, value: unknown) => write([put("values", key, value)]),
};
