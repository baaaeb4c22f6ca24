// Markdown to nodes: parsed by marked, cleaned by DOMPurify, then code, mathematics and marks of regions are filled in.
import DOMPurify from "dompurify";
import type { Tokens } from "marked";
import temml from "temml";
import { asList, isTooMuch, itemMarkup, marked } from "./blocks.ts";
import { highlight } from "./highlight.ts";
import { CLOSE, OPEN, type Region } from "./special.ts";
import { BLOCK_CLASS, INLINE_CLASS } from "./tex.ts";

const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "details", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd",
  "li", "ol", "p", "pre", "s", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul",
];
const ATTRIBUTES = ["href", "class", "align", "start", "alt", "src", "title", "colspan", "rowspan"];
const CLASSES = /^(?:language-[\w+#.-]+|tex-inline|tex-block)$/;

/** One block of an answer as nodes. Nothing in it runs or loads anything. */
export function renderBlock(source: string, regions: readonly Region[]): DocumentFragment {
  const list = isTooMuch(source) ? undefined : asList(source);
  const fragment = isTooMuch(source) ? plain(source) : list ? listed(list) : parsed(marked.parse(source, { async: false }));
  if (regions.length) placeMarks(fragment, regions);
  return fragment;
}

function plain(source: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  const paragraph = document.createElement("p");
  paragraph.className = "plain";
  paragraph.textContent = source;
  fragment.append(paragraph);
  return fragment;
}

// Items of lists that were drawn: a list that grows is one block, and only its last item changes.
const items = new Map<string, Node>();
const MAX_ITEMS = 500;

function listed(list: Tokens.List): DocumentFragment {
  const box = document.createElement(list.ordered ? "ol" : "ul");
  if (list.ordered && list.start !== "" && list.start !== 1) (box as HTMLOListElement).start = list.start;
  for (const item of list.items) {
    const key = `${list.loose} ${item.raw}`;
    let node = items.get(key);
    if (!node) {
      node = parsed(itemMarkup(list, item)).firstElementChild?.firstElementChild ?? document.createElement("li");
      if (items.size >= MAX_ITEMS) items.clear();
      items.set(key, node);
    }
    box.append(node.cloneNode(true));
  }
  const fragment = document.createDocumentFragment();
  fragment.append(box);
  return fragment;
}

function parsed(html: string): DocumentFragment {
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const node of fragment.querySelectorAll("[class]")) if (!CLASSES.test(node.className)) node.removeAttribute("class");
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const image of fragment.querySelectorAll("img")) image.replaceWith(imageLink(image));
  for (const node of fragment.querySelectorAll(`.${INLINE_CLASS}, .${BLOCK_CLASS}`)) typeset(node as HTMLElement);
  for (const code of fragment.querySelectorAll("pre > code")) dress(code as HTMLElement);
  for (const table of fragment.querySelectorAll("table")) wrap(table, "table");
  return fragment;
}

/** A picture in an answer is not loaded, because its address could carry the conversation away: a link stands for it. */
function imageLink(image: HTMLImageElement): Node {
  const address = image.getAttribute("src") ?? "";
  const name = image.alt || address;
  if (!/^https?:/i.test(address)) return document.createTextNode(name);
  const link = document.createElement("a");
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  link.textContent = `🖼 ${name}`;
  return link;
}

// Formulas that were typeset; while an answer grows, each is wanted again and again.
const formulas = new Map<string, HTMLElement>();
const MAX_FORMULAS = 500;

function typeset(node: HTMLElement): void {
  const tex = node.textContent ?? "";
  const key = `${node.className} ${tex}`;
  let formula = formulas.get(key);
  if (!formula) {
    formula = node.cloneNode(true) as HTMLElement;
    fill(formula, tex);
    if (formulas.size >= MAX_FORMULAS) formulas.clear();
    formulas.set(key, formula);
  }
  node.replaceWith(formula.cloneNode(true));
}

// Formulas beyond these stay text: browsers lay nested ones out recursively, and slowly.
const LONGEST_FORMULA = 4000;
const DEEPEST_FORMULA = 40;

/** How deeply a formula nests: by its braces. */
function depth(tex: string): number {
  let now = 0;
  let deepest = 0;
  for (const found of tex.match(/\\.|[{}]/gs) ?? []) {
    if (found === "{") deepest = Math.max(deepest, ++now);
    else if (found === "}") now -= 1;
  }
  return deepest;
}

function fill(node: HTMLElement, tex: string): void {
  try {
    if (tex.length > LONGEST_FORMULA || depth(tex) > DEEPEST_FORMULA) throw new Error("too large");
    temml.render(tex, node, { displayMode: node.className === BLOCK_CLASS, throwOnError: true, trust: false, maxSize: [20, 200] });
  } catch {
    node.textContent = node.className === BLOCK_CLASS ? `$$${tex}$$` : `$${tex}$`;
  }
}

function dress(code: HTMLElement): void {
  const name = /^language-(.+)$/.exec(code.className)?.[1] ?? "";
  const text = (code.textContent ?? "").replace(/\n$/, "");
  code.replaceChildren(highlight(text, name));
  const frame = wrap(code.parentElement!, "code");
  const head = document.createElement("div");
  head.className = "code-head";
  const label = document.createElement("span");
  label.textContent = name || "text";
  const button = document.createElement("button");
  button.type = "button";
  button.dataset["copy"] = "";
  head.append(label, button);
  frame.prepend(head);
}

function wrap(node: Element, kind: string): HTMLElement {
  const frame = document.createElement("div");
  frame.className = `${kind}-frame`;
  if (kind === "table") frame.tabIndex = 0;
  node.replaceWith(frame);
  frame.append(node);
  return frame;
}

function placeMarks(fragment: DocumentFragment, regions: readonly Region[]): void {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const found: Text[] = [];
  while (walker.nextNode()) if ((walker.currentNode as Text).data.includes(OPEN)) found.push(walker.currentNode as Text);
  for (const node of found) {
    const parts = node.data.split(new RegExp(`${OPEN}(\\d+)${CLOSE}`));
    node.replaceWith(...parts.map((part, index) => (index % 2 ? mark(Number(part), regions) : part)));
  }
}

function mark(index: number, regions: readonly Region[]): Node {
  const region = regions[index];
  if (!region) return document.createTextNode("");
  const button = document.createElement("button");
  button.type = "button";
  button.className = `mark mark-${index % 6}`;
  button.dataset["region"] = String(index);
  button.textContent = region.name;
  return button;
}
