// IndexedDB: conversations, turns, bytes of attachments, presets and values of the page.
import type { Conversation, Preset, Turn } from "../lib/types.ts";

const NAME = "pocketvlm";
const VERSION = 1;
type Store = "conversations" | "turns" | "blobs" | "presets" | "values";

let opened: Promise<IDBDatabase> | undefined;

function open(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("conversations", { keyPath: "id" });
      db.createObjectStore("turns", { keyPath: "id" }).createIndex("conversation", "conversation");
      db.createObjectStore("blobs");
      db.createObjectStore("presets", { keyPath: "name" });
      db.createObjectStore("values");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function read<T>(store: Store, ask: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  return done(ask((await open()).transaction(store).objectStore(store)));
}

async function write(store: Store, change: (store: IDBObjectStore) => void): Promise<void> {
  const transaction = (await open()).transaction(store, "readwrite");
  change(transaction.objectStore(store));
  await new Promise<void>((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const conversations = {
  all: () => read<Conversation[]>("conversations", (store) => store.getAll()),
  put: (value: Conversation) => write("conversations", (store) => void store.put(value)),
  delete: (id: string) => write("conversations", (store) => void store.delete(id)),
};

export const turns = {
  all: () => read<Turn[]>("turns", (store) => store.getAll()),
  of: (conversation: string) => read<Turn[]>("turns", (store) => store.index("conversation").getAll(conversation)),
  put: (...values: Turn[]) => write("turns", (store) => values.forEach((value) => store.put(value))),
  delete: (...ids: string[]) => write("turns", (store) => ids.forEach((id) => store.delete(id))),
};

export const blobs = {
  get: (key: string) => read<Blob | undefined>("blobs", (store) => store.get(key) as IDBRequest<Blob | undefined>),
  keys: () => read("blobs", (store) => store.getAllKeys()),
  put: (key: string, value: Blob) => write("blobs", (store) => void store.put(value, key)),
  delete: (...keys: string[]) => write("blobs", (store) => keys.forEach((key) => store.delete(key))),
};

export const presets = {
  all: () => read<Preset[]>("presets", (store) => store.getAll()),
  put: (value: Preset) => write("presets", (store) => void store.put(value)),
  delete: (name: string) => write("presets", (store) => void store.delete(name)),
};

export const values = {
  get: <T>(key: string) => read<T | undefined>("values", (store) => store.get(key) as IDBRequest<T | undefined>),
  put: (key: string, value: unknown) => write("values", (store) => void store.put(value, key)),
};
