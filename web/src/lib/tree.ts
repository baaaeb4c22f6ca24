// The branches of a conversation: turns form a tree, and the page shows the path from its root to one leaf.
import type { Turn } from "./types.ts";

export type Turns = ReadonlyMap<string, Turn>;

/** The turns from the root to `leaf`, in order. */
export function pathTo(turns: Turns, leaf: string | null): Turn[] {
  const path: Turn[] = [];
  const seen = new Set<string>();
  for (let at = leaf; at !== null && !seen.has(at); ) {
    const turn = turns.get(at);
    if (!turn) break;
    seen.add(at);
    path.push(turn);
    at = turn.parent;
  }
  return path.reverse();
}

/** The turns after each turn, oldest first; those of the root under null. */
export function children(turns: Turns): Map<string | null, Turn[]> {
  const found = new Map<string | null, Turn[]>();
  for (const turn of turns.values()) {
    const list = found.get(turn.parent);
    if (list) list.push(turn);
    else found.set(turn.parent, [turn]);
  }
  for (const list of found.values()) list.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  return found;
}

/** The end of the newest branch after a turn. */
export function newestLeaf(after: Map<string | null, Turn[]>, from: string | null): string | null {
  let at = from;
  for (let next = after.get(at)?.at(-1); next; next = after.get(at)?.at(-1)) at = next.id;
  return at;
}

/** The ids of a turn and of all turns after it. */
export function subtree(after: Map<string | null, Turn[]>, root: string): string[] {
  const found = [root];
  for (let index = 0; index < found.length; index++) {
    for (const turn of after.get(found[index]!) ?? []) found.push(turn.id);
  }
  return found;
}

/** The branches of a path's turn: turns with its parent and role; answers asked together count as one. */
export function branches(after: Map<string | null, Turn[]>, turn: Turn): Turn[] {
  const seen = new Set<string>();
  return (after.get(turn.parent) ?? []).filter((each) => {
    if (each.role !== turn.role) return false;
    if (!each.group) return true;
    if (each.group === turn.group) return each.id === turn.id;
    if (seen.has(each.group)) return false;
    seen.add(each.group);
    return true;
  });
}

/** The answers that were asked together with a turn, itself included. */
export function group(after: Map<string | null, Turn[]>, turn: Turn): Turn[] {
  if (!turn.group) return [turn];
  return (after.get(turn.parent) ?? []).filter((each) => each.group === turn.group);
}

/** Whether a turn is `before` or comes after it. */
export function isAfter(turns: Turns, leaf: string | null, before: string | null): boolean {
  return before === null || pathTo(turns, leaf).some((turn) => turn.id === before);
}
