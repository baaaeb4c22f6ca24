// Input that is wrong on purpose, or grows while it is read: answers, exports, errors, a browser without storage.
import assert from "node:assert/strict";
import { test } from "node:test";
import { asList, BlockReader, blocks, isTooMuch, itemMarkup, marked } from "../../src/lib/blocks.ts";
import { readMessages } from "../../src/lib/messages.ts";
import { problemOf, RequestError } from "../../src/lib/problems.ts";
import { plainText, readRegions } from "../../src/lib/special.ts";
import { SmallStorage } from "../../src/lib/storage.ts";

const GROWING = [
  "# Title\n\nA paragraph\nof two lines.\n\n- one\n\n- two\n\n  more of two\n\nend",
  "before\n$$\na\n\nb\n$$\nafter\n\n\\[\nx\n\ny\n\\]\n\nlast",
  "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n\n\ny = 2\n```\ntext\n***\n> quote\nlazy\n\n> other",
  "text\r\n\r\nHeading\n===\n\n    code\n\n    more\n\n<details>\n\ninside\n\n</details>\n\n[a]: http://b\n\"title\"\n\n1. x\n2. y\n   ```\n   z",
  "- a\n- b\n\n\n\nno list\n\n* * *\n\n<!-- a\n\nb --> c\n\n$$ never closed\n\nmore\n\nand more",
];

test("a text that grows has the same blocks as the whole text, however it is cut", () => {
  for (const text of GROWING) {
    for (const step of [1, 2, 7]) {
      const reader = new BlockReader();
      for (let end = 0; end <= text.length; end += step) assert.deepEqual(reader.read(text.slice(0, end)), blocks(text.slice(0, end)), JSON.stringify(text.slice(0, end)));
    }
  }
  const reader = new BlockReader();
  reader.read(GROWING[0]!);
  assert.deepEqual(reader.read("another text"), ["another text"]);
});

test("items of a list have the markup that they have in their list", () => {
  const lists = ["- a\n- b **c**\n- [ ] d\n- [x] e", "- a\n\n- b\n  - nested\n\n    text\n- c", "3. x\n4. y\n\n   ```js\n   z\n   ```\n", "1) a\n   > q\n2) | a |\n   |---|\n   | b |", "* a\nlazy\n* \n* b\n"];
  for (const source of lists) {
    const list = asList(source)!;
    const [first = "", last = ""] = marked.parse(source, { async: false }).split(/(?<=^<[ou]l[^>]*>\n)|(?=<\/[ou]l>\n$)/).filter((part) => /^<\/?[ou]l/.test(part) && part.length < 20);
    const inner = list.items.map((item) => itemMarkup(list, item).replace(/^<[ou]l[^>]*>\n/, "").replace(/<\/[ou]l>\n$/, ""));
    assert.equal(first + inner.join("") + last, marked.parse(source, { async: false }), source);
  }
  for (const source of ["text", "- a\n\ntext", "---", "| a |\n|---|\n| b |"]) assert.equal(asList(source), undefined);
});

test("a text that parsers would choke on is one block and is shown as it is", () => {
  for (const text of [">".repeat(20_000), "- ".repeat(20_000) + "x", "1. ".repeat(9000) + "x", "[".repeat(20_000), "<".repeat(20_000), "a".repeat(20_000)]) {
    assert.equal(blocks(text).join(""), text);
    assert.ok(isTooMuch(text), text.slice(0, 9));
  }
  const list = Array.from({ length: 2000 }, (_, index) => `- item ${index}`).join("\n");
  const table = `| a |\n|---|\n${"| b |\n".repeat(4000)}`;
  for (const text of [list, table, "```\n" + "x".repeat(50_000), "-".repeat(80), "> > > quoted", `    ${"x".repeat(50_000)}`]) assert.ok(!isTooMuch(text), text.slice(0, 9));
});

test("coordinates that are not closed stay text", () => {
  assert.equal(readRegions("<ref>".repeat(1000)).regions.length, 0);
  assert.equal(plainText("<ref>a <b></ref>"), "<ref>a <b></ref>");
});

test("exports with wrong values are refused by name, and keys of prototypes are keys like others", () => {
  const part = (more: string): string => `[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}, ${more}}]}]`;
  assert.throws(() => readMessages(part('"fps": {"a": 1}')), /messages\[0\]\.content\[0\]\.fps is \{"a":1\}/);
  assert.throws(() => readMessages(part('"downsample_mode": "2x"')), /downsample_mode is "2x"/);
  assert.throws(() => readMessages(part('"slice_mode": 1')), /slice_mode is 1/);
  assert.throws(() => readMessages('[{"role": "__proto__", "content": ""}]'), /role is "__proto__"/);
  assert.throws(() => readMessages('[{"role": "user", "content": [{"type": "constructor"}]}]'), /type is "constructor"/);
  assert.throws(() => readMessages('[{"role": "user", "content": [{"type": "text", "text": {}}]}]'), /text is no text/);
  const { turns } = readMessages('[{"__proto__": {"polluted": 1}, "role": "assistant", "content": "x", "tool_calls": [{"id": "__proto__", "function": {"name": {}, "arguments": {"__proto__": 2}}}]}]');
  assert.equal(({} as Record<string, unknown>)["polluted"], undefined);
  assert.deepEqual(turns[0]!.calls, [{ id: "__proto__", name: "", arguments: '{"__proto__":2}' }]);
});

test("codes and keys that are names of every object's properties mean nothing", () => {
  assert.deepEqual(problemOf(new RequestError(404, "constructor", "x")), { key: "error.missing", detail: "x" });
  assert.equal(problemOf(new DOMException("full", "QuotaExceededError")).key, "error.full");
});

test("values stay until the page is closed where the browser refuses to store them", () => {
  const refusing = new SmallStorage("localStorage");
  Object.defineProperty(globalThis, "localStorage", { configurable: true, get: () => { throw new DOMException("no", "SecurityError"); } });
  assert.equal(refusing.get("a"), null);
  refusing.set("a", "1");
  assert.equal(refusing.get("a"), "1");
  const stored = new Map([["draft", "old"]]);
  const full = { getItem: (key: string) => stored.get(key) ?? null, setItem: () => { throw new DOMException("full", "QuotaExceededError"); }, removeItem: (key: string) => void stored.delete(key) };
  Object.defineProperty(globalThis, "localStorage", { configurable: true, value: full });
  refusing.set("draft", "new");
  assert.equal(refusing.get("draft"), "new");
  assert.equal(stored.size, 0, "a reload would bring back the old one");
});
