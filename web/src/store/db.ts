// The page's database: conversations, turns, bytes of attachments, presets and values of the page.
import { signal } from "@preact/signals";
import type { Conversation, Preset, Turn } from "../lib/types.ts";

const NAME = "pocketvlm";
const VERSION = 1;
export const STORES = ["conversations", "turns", "blobs", "presets", "values"] as const;
type Store = (typeof STORES)[number];

/** A change of one entry: its new value from its old one; undefined deletes it, the old one leaves it alone. */
interface Change {
  store: Store;
  key: string;
  update: (old: unknown) => unknown;
}

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

async function read<T>(store: Store, ask: (store: IDBObjectStore) => IDBRequest<T>, otherwise: (held: Map<string, unknown>) => T): Promise<T> {
  const db = await open();
  if (!db) return otherwise(memory.get(store)!);
  return new Promise((resolve, reject) => {
    const request = ask(db.transaction(store).objectStore(store));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Make changes, all or none: no other tab writes between reading an old value and writing the new one. */
async function write(changes: readonly Change[]): Promise<void> {
  if (!changes.length) return;
  const db = await open();
  if (!db) {
    for (const { store, key, update } of changes) {
      const held = memory.get(store)!;
      const value = update(held.get(key));
      if (value === undefined) held.delete(key);
      else held.set(key, value);
    }
    return;
  }
  const transaction = db.transaction([...new Set(changes.map(({ store }) => store))], "readwrite");
  await new Promise<void>((resolve, reject) => {
    let fault: unknown;
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(fault ?? transaction.error ?? new Error("the database does not write"));
    for (const { store, key, update } of changes) {
      const entries = transaction.objectStore(store);
      const asked = entries.get(key);
      asked.onsuccess = () => {
        try {
          const value = update(asked.result);
          if (value === undefined) entries.delete(key);
          else if (value !== asked.result) entries.put(value, ...(entries.keyPath === null ? [key] : []));
        } catch (error) {
          fault = error;
          transaction.abort();
        }
      };
    }
  });
}

function put(store: Store, key: string, value: unknown): Change {
  return { store, key, update: () => value };
}

function remove(store: Store, keys: readonly string[]): Promise<void> {
  return write(keys.map((key) => put(store, key, undefined)));
}

const all = <T>(store: Store): Promise<T[]> => read(store, (found) => found.getAll() as IDBRequest<T[]>, (held) => [...held.values()] as T[]);
const one = <T>(store: Store, key: string): Promise<T | undefined> =>
  read(store, (found) => found.get(key) as IDBRequest<T | undefined>, (held) => held.get(key) as T | undefined);

export const conversations = {
  all: () => all<Conversation>("conversations"),
  put: (value: Conversation) => write([put("conversations", value.id, value)]),
  /** Change some fields, whatever other tabs have written to the others; a deleted conversation stays deleted. */
  patch: (id: string, change: Partial<Conversation>) =>
    write([{ store: "conversations", key: id, update: (old) => (old === undefined ? undefined : { ...(old as Conversation), ...change }) }]),
  delete: (id: string) => remove("conversations", [id]),
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
  delete: (...ids: string[]) => remove("turns", ids),
};

export const blobs = {
  get: (key: string) => one<Blob>("blobs", key),
  keys: () => read("blobs", (store) => store.getAllKeys() as IDBRequest<string[]>, (held) => [...held.keys()]),
  put: (key: string, value: Blob) => write([put("blobs", key, value)]),
  delete: (...keys: string[]) => remove("blobs", keys),
};

export const presets = {
  all: () => all<Preset>("presets"),
  put: (value: Preset) => write([put("presets", value.name, value)]),
  delete: (name: string) => remove("presets", [name]),
};

export const values = {
  get: <T>(key: string) => one<T>("values", key),
  put: (key: string, value: unknown) => write([put("values", key, value)]),
};
