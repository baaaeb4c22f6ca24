// Tests of changes of the database: what a page leaves to the next one, and what is made of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { alive, applyTo, journalOf, marked, STORES, type Change, type Entry, type Store } from "../../src/store/changes.ts";

const turn = (id: string): Change => ({ store: "turns", key: id, value: { id, conversation: "c" } });
const conversation: Change = { store: "conversations", key: "c", value: { id: "c", title: "old", leaf: "t" } };
const rename: Change = { store: "conversations", key: "c", patch: { title: "new" } };

function stored(): Map<Store, Map<string, unknown>> {
  return new Map(STORES.map((store) => [store, new Map()]));
}

/** The marks that changes leave in `values`. */
function marks(...entries: Entry[]): Map<string, number> {
  const memory = stored();
  for (const entry of entries) applyTo(memory, marked(entry));
  return memory.get("values") as Map<string, number>;
}

test("a patch keeps other fields, and makes no entry that is not there", () => {
  const memory = stored();
  applyTo(memory, [rename]);
  assert.equal(memory.get("conversations")!.size, 0);
  applyTo(memory, [conversation, rename]);
  assert.deepEqual(memory.get("conversations")!.get("c"), { id: "c", title: "new", leaf: "t" });
});

test("a conversation goes with all its turns, and no others", () => {
  const memory = stored();
  applyTo(memory, [conversation, turn("a"), turn("b"), { store: "turns", key: "z", value: { id: "z", conversation: "other" } }]);
  applyTo(memory, [{ store: "conversations", key: "c", gone: true }, { store: "turns", of: "c" }]);
  assert.deepEqual([...memory.get("turns")!.keys()], ["z"]);
  assert.equal(memory.get("conversations")!.size, 0);
});

test("a journal survives JSON, has no bytes, and is the same when it is replayed again", () => {
  const entries: Entry[] = [{ at: 1, changes: [{ store: "blobs", key: "x", value: new Blob(["x"]) }] }, { at: 2, changes: [conversation, turn("t")] }, { at: 3, changes: [rename] }];
  const journal = journalOf(entries);
  assert.deepEqual(JSON.parse(JSON.stringify(journal)), journal);
  assert.deepEqual(journal.map(({ at }) => at), [2, 3]);
  const memory = stored();
  for (let time = 0; time < 2; time++) applyTo(memory, alive(journal, new Map()));
  assert.deepEqual(memory.get("conversations")!.get("c"), { id: "c", title: "new", leaf: "t" });
  assert.equal(memory.get("turns")!.size, 1);
});

test("a journal brings back nothing that was deleted after its changes, and all that was made after a deletion", () => {
  const journal: Entry[] = [{ at: 5, changes: [conversation, turn("t"), turn("u")] }, { at: 6, changes: [rename] }];
  const whole = marks({ at: 7, changes: [{ store: "conversations", key: "c", gone: true }] });
  assert.deepEqual(alive(journal, whole), []);
  const one = marks({ at: 7, changes: [{ store: "turns", key: "t", gone: true }] });
  assert.deepEqual(alive(journal, one), [conversation, turn("u"), rename]);
  const before = marks({ at: 4, changes: [{ store: "conversations", key: "c", gone: true }] });
  assert.equal(alive(journal, before).length, 4);
});

test("deletions of a journal are marked with the time at which they were made", () => {
  const left = alive([{ at: 5, changes: [{ store: "presets", key: "p", gone: true }] }], new Map());
  const memory = stored();
  applyTo(memory, left);
  const [time] = memory.get("values")!.values();
  assert.equal(time, 5);
});
