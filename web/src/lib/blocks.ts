// Markdown text as blocks: while an answer streams, only its last block is rendered again.
import { Lexer, Marked, type Token, type Tokens } from "marked";
import { escape, mathematics } from "./tex.ts";

// Tags that models write into Markdown. They may have no attributes but the spans of a table's cells.
const PLAIN_TAG =
  /^<\/?(?:b|blockquote|br|code|del|details|em|h[1-6]|hr|i|kbd|li|ol|p|pre|s|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul)(?:\s+(?:col|row)span="?\d{1,3}"?)*\s*\/?>$/i;

/** Markup with every other tag as text. The page's second guard is DOMPurify. */
export function plainMarkup(html: string): string {
  return html.replace(/<!--[\s\S]*?(?:-->|$)|<[^>]*>?/g, (tag) => (PLAIN_TAG.test(tag) ? tag : escape(tag)));
}

export const marked = new Marked({ gfm: true, breaks: false, renderer: { html: ({ text }) => plainMarkup(text) } }, mathematics);

// Lists and quotes inside one another, and characters of one paragraph, that parsers take without a noticeable delay.
const TOO_DEEP = /^(?:[ \t]*(?:>|(?:[-*+]|\d{1,9}[.)])(?=[ \t]))){30}|^[ \t]{100,}(?:[-*+]|\d{1,9}[.)])[ \t]/m;
const LONGEST = 10_000;
const CODE = /^(?: {4}|\t| {0,3}(?:```|~~~))/;
const LINES = /^\s*(?:[-*+|>]|\d{1,9}[.)])/;

/** Whether a block is shown as it is, because its parsing would stop the page. */
export function isTooMuch(source: string): boolean {
  if (CODE.test(source)) return false;
  const parts = LINES.test(source) ? source.split("\n") : [source];
  return parts.some((part) => part.length > LONGEST) || TOO_DEEP.test(source);
}

/** The source text of each block, in order. What cannot be parsed is one block. */
export function blocks(text: string): string[] {
  return new BlockReader().read(text);
}

// Mathematics that is not closed yet may end after blank lines, and is several paragraphs until then.
const OPEN_MATH = /^ {0,3}(?:\$\$|\\\[)/m;

/** Reads a growing text: only from its last block on, which may go on, and which earlier ones do not depend on. */
export class BlockReader {
  private text = "";
  private found: string[] = [];
  /** Where the text is read from next, and the number of blocks before it. */
  private from = 0;
  private before = 0;

  read(given: string): string[] {
    const text = given.replace(/\r\n?/g, "\n");
    if (!text.startsWith(this.text)) this.from = this.before = 0;
    const found = this.found.slice(0, this.before);
    let at = this.from;
    let open = false;
    let previous = "";
    for (const { raw, type } of tokens(text.slice(at))) {
      if (type !== "space") {
        // The line after a link's definition may become its title.
        if (!open && previous !== "def") [this.from, this.before] = [at, found.length];
        open ||= type === "paragraph" && OPEN_MATH.test(raw);
        found.push(raw);
      }
      previous = type;
      at += raw.length;
    }
    [this.text, this.found] = [text, found];
    return found;
  }
}

function tokens(text: string): { raw: string; type: string }[] {
  try {
    if (TOO_DEEP.test(text)) throw new RangeError("too deep");
    return new Lexer(marked.defaults).blockTokens(text);
  } catch {
    return [{ raw: text, type: "text" }]; // its lists or quotes nest too deeply
  }
}

/** The list that a block is; undefined for every other block. */
export function asList(source: string): Tokens.List | undefined {
  if (!LINES.test(source)) return undefined;
  const [first, ...others] = new Lexer(marked.defaults).blockTokens(source);
  return first?.type === "list" && others.every(({ type }) => type === "space") ? (first as Tokens.List) : undefined;
}

/** The markup of one item as it is in its list. */
export function itemMarkup(list: Tokens.List, item: Tokens.ListItem): string {
  const alone = marked.lexer(item.raw)[0] as Tokens.List;
  const items = alone.items.map((each) => ({ ...each, loose: list.loose, tokens: list.loose ? each.tokens.map(asParagraph) : each.tokens }));
  return marked.parser([{ ...alone, loose: list.loose, items }]);
}

/** In a list with blank lines between its items, their texts are paragraphs. */
function asParagraph(token: Token): Token {
  return token.type === "text" ? ({ ...token, type: "paragraph" } as Token) : token;
}
