// Changes of the database, as data: a page that goes leaves those that are not stored yet to the next one.
import type { Conversation } from "../lib/types.ts";

export const STORES = ["conversations", "turns", "blobs", "presets", "values"] as const;
export type Store = (typeof STORES)[number];

export type Change =
  | { store: Store; key: string; value: unknown }
  /** Some fields of an entry, whatever other tabs have written to the others; a deleted entry stays deleted. */
  | { store: "conversations"; key: string; patch: Partial<Conversation> }
  | { store: Store; key: string; gone: true }
  /** Delete all turns of a conversation. */
  | { store: "turns"; of: string };

/** Changes that are stored together, and when they were made. */
export interface Entry {
  at: number;
  changes: readonly Change[];
}

const GONE = "gone ";
/** The entries of `values` that tell of deletions. */
export const DELETIONS = [GONE, `${GONE}\uFFFF`] as const;
/** Milliseconds for which a deletion is known: no page that has not seen it goes later than that. */
export const DELETION_KNOWN = 7 * 86_400_000;

function mark(store: Store, key: string): string {
  return `${GONE}${store} ${key}`;
}

/** The changes, and for each deletion a mark in `values`: a journal does not bring back what another tab has deleted. */
export function marked({ at, changes }: Entry): Change[] {
  const marks = changes.flatMap((change): Change[] =>
    "gone" in change && change.store !== "blobs" && change.store !== "values" ? [{ store: "values", key: mark(change.store, change.key), value: at }] : [],
  );
  return [...changes, ...marks];
}

/** The changes of a journal whose entries were not deleted after them; `deletions`: times by mark. */
export function alive(journal: readonly Entry[], deletions: ReadonlyMap<string, number>): Change[] {
  return journal.flatMap((entry) => {
    const isDeleted = (store: Store, key: string): boolean => (deletions.get(mark(store, key)) ?? -Infinity) > entry.at;
    return marked(entry).filter((change) => {
      if ("of" in change || "gone" in change) return true;
      const owner = change.store === "turns" && "value" in change ? (change.value as { conversation: string }).conversation : undefined;
      return !isDeleted(change.store, change.key) && (owner === undefined || !isDeleted("conversations", owner));
    });
  });
}

/** What a page can leave to the next one: JSON holds no bytes, and nothing names bytes before they are stored. */
export function journalOf(entries: Iterable<Entry>): Entry[] {
  return [...entries]
    .map(({ at, changes }) => ({ at, changes: changes.filter(({ store }) => store !== "blobs") }))
    .filter(({ changes }) => changes.length > 0);
}

/** Make changes in a transaction, one after the other, and commit it at once: it is done then, also where the page goes. */
export function apply(transaction: IDBTransaction, changes: readonly Change[], failed: (error: unknown) => void): void {
  try {
    for (const [index, change] of changes.entries()) {
      const entries = transaction.objectStore(change.store);
      if ("value" in change) {
        entries.put(change.value, ...(entries.keyPath === null ? [change.key] : []));
      } else if ("gone" in change) {
        entries.delete(change.key);
      } else {
        // The changes after one that reads wait for what it has read.
        const asked = "of" in change ? entries.index("conversation").getAllKeys(change.of) : entries.get(change.key);
        asked.onsuccess = () => {
          const next = "of" in change ? (asked.result as string[]).map((key): Change => ({ store: "turns", key, gone: true })) : merged(change, asked.result);
          apply(transaction, [...next, ...changes.slice(index + 1)], failed);
        };
        return;
      }
    }
    transaction.commit();
  } catch (error) {
    failed(error);
  }
}

function merged({ store, key, patch }: Extract<Change, { patch: object }>, old: unknown): Change[] {
  return old === undefined ? [] : [{ store, key, value: { ...old, ...patch } }];
}

/** Make changes in maps, where there is no database. */
export function applyTo(memory: ReadonlyMap<Store, Map<string, unknown>>, changes: readonly Change[]): void {
  for (const change of changes) {
    const held = memory.get(change.store)!;
    if ("value" in change) held.set(change.key, change.value);
    else if ("gone" in change) held.delete(change.key);
    else if ("patch" in change) applyTo(memory, merged(change, held.get(change.key)));
    else for (const [key, turn] of held) if ((turn as { conversation: string }).conversation === change.of) held.delete(key);
  }
}
