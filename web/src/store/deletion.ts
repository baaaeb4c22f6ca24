// Turns and conversations are deleted, with the bytes that nothing names any more.
import { batch } from "@preact/signals";
import { group, subtree } from "../lib/tree.ts";
import type { Turn } from "../lib/types.ts";
import * as db from "./db.ts";
import { after, current, dropConversation, forget, leafWithout, patchConversation, turns } from "./state.ts";
import { heldKeys, tell } from "./tabs.ts";

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
  tell({ kind: "gone", conversation, turns: [...gone] });
  await db.turns.delete(...gone);
  await dropUnusedBlobs(lost);
}

export async function deleteConversation(id: string): Promise<void> {
  const read = db.turns.of(id); // asked for before the deletion, which is not to wait for it
  dropConversation(id);
  tell({ kind: "gone", conversation: id });
  const [gone] = await Promise.all([read, db.conversations.delete(id)]);
  await dropUnusedBlobs(gone);
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
