// Mathematics in Markdown: $...$, $$...$$, \(...\) and \[...\] become tokens of their own.
import type { MarkedExtension, Tokens } from "marked";

// A dollar sign opens mathematics only before, and closes it only after, something that is no blank, so prices stay text.
const INLINE = /^\$(?=\S)((?:\\[\s\S]|[^\\$\n])+?)(?<=\S)\$(?![\d\w])|^\\\(([\s\S]+?)\\\)/;
const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n+|$)/;
const SPAN = /^\$\$([\s\S]+?)\$\$|^\\\[([\s\S]+?)\\\]/;

export const INLINE_CLASS = "tex-inline";
export const BLOCK_CLASS = "tex-block";

export const mathematics: MarkedExtension = {
  extensions: [
    {
      name: "texBlock",
      level: "block",
      start: (text: string) => found(text, /\n {0,3}(?:\$\$|\\\[)/),
      tokenizer: (text: string) => token("texBlock", BLOCK.exec(text)),
      renderer: (made: Tokens.Generic) => `<div class="${BLOCK_CLASS}">${escape(String(made["tex"]))}</div>`,
    },
    {
      name: "texSpan",
      level: "inline",
      start: (text: string) => found(text, /\$|\\[([]/),
      tokenizer: (text: string) => token("texSpan", SPAN.exec(text) ?? INLINE.exec(text)),
      renderer: (made: Tokens.Generic) => `<span class="${INLINE_CLASS}">${escape(String(made["tex"]))}</span>`,
    },
  ],
};

/** Where a pattern is found first. */
function found(text: string, pattern: RegExp): number | undefined {
  const at = text.search(pattern);
  return at < 0 ? undefined : at;
}

function token(type: string, match: RegExpExecArray | null): Tokens.Generic | undefined {
  return match ? { type, raw: match[0], tex: (match[1] ?? match[2] ?? "").trim() } : undefined;
}

export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
