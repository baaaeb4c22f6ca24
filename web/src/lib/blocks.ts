// Markdown text as blocks: while an answer streams, only its last block is rendered again.
import { Marked } from "marked";
import { escape, mathematics } from "./tex.ts";

// Tags that models write into Markdown. They may have no attributes but the spans of a table's cells.
const PLAIN_TAG =
  /^<\/?(?:b|blockquote|br|code|del|details|em|h[1-6]|hr|i|kbd|li|ol|p|pre|s|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul)(?:\s+(?:col|row)span="?\d{1,3}"?)*\s*\/?>$/i;

/** Markup with every other tag as text. The page's second guard is DOMPurify. */
export function plainMarkup(html: string): string {
  return html.replace(/<!--[\s\S]*?(?:-->|$)|<[^>]*>?/g, (tag) => (PLAIN_TAG.test(tag) ? tag : escape(tag)));
}

export const marked = new Marked({ gfm: true, breaks: false, renderer: { html: ({ text }) => plainMarkup(text) } }, mathematics);

/** The source text of each block, in order. */
export function blocks(text: string): string[] {
  const found: string[] = [];
  for (const token of marked.lexer(text)) {
    if (token.type === "space") continue;
    found.push(token.raw);
  }
  return found;
}
