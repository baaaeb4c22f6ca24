// A line that tells the reader of a failure which belongs to no turn.
import { signal } from "@preact/signals";
import { problemOf } from "../lib/problems.ts";
import { told } from "../text/index.ts";

export const notice = signal("");

/** Tell the reader of a failure: in plain words, then the server's or browser's own. */
export function report(error: unknown): void {
  const { key, detail } = problemOf(error);
  notice.value = [told(key), detail].filter(Boolean).join(" ");
}
