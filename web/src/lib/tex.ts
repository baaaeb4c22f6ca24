// Mathematics in Markdown: $...$, $$...$$, \(...\) and \[...\] become tokens of their own.
import type { MarkedExtension, Tokens } from "marked";

// A dollar sign opens mathematics only before, and closes it only after, something that is no blank, so prices stay text.
// None contains its own beginning: where thousands are not closed, a search for each end would take seconds.
const INLINE = /^\$(?=\S)((?:\\[\s\S]|[^\\$\n])+?)(?<=\S)\$(?![\d\w])|^\\\(((?:(?!\\\()[\s\S])+?)\\\)/;
const SPAN = /^\$\$((?:(?!\$\$)[\s\S])+?)\$\$|^\\\[((?:(?!\\\[)[\s\S])+?)\\\]/;
const BLOCK = new RegExp(`^ {0,3}(?:${SPAN.source.replaceAll("^", "")})[ \\t]*(?:\\n+|$)`);

export const INLINE_CLASS = "tex-inline";
export const BLOCK_CLASS = "tex-block";

export const mathematics: MarkedExtension = {
  extensions: [
    {
      name: "texBlock",
      level: "block",
      // Only in the paragraph that it would end.
      start: (text: string) => found(text.slice(0, (text.indexOf("\n\n") + 1 || text.length + 1) - 1), /\n {0,3}(?:\$\$|\\\[)/),
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
