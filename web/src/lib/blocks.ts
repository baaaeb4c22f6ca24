// Markdown text as blocks: while an answer streams, only its last block is rendered again.
import { Marked } from "marked";
import { mathematics } from "./tex.ts";

export const marked = new Marked({ gfm: true, breaks: false }, mathematics);

/** The source text of each block, in order. */
export function blocks(text: string): string[] {
  const found: string[] = [];
  for (const token of marked.lexer(text)) {
    if (token.type === "space") continue;
    found.push(token.raw);
  }
  return found;
}
